"""How people look at a swarm and act on it; talks to a daemon and never imports torch."""
