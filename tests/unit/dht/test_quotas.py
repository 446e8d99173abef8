from distqatd.dht.quotas import RateLimiter, source_of


def test_a_burst_of_twice_the_rate_is_allowed_and_then_the_rate() -> None:
    limiter = RateLimiter(rate=10, max_sources=5)
    assert sum(limiter.allow("a", 0.0) for _ in range(100)) == 20
    assert sum(limiter.allow("a", 1.0) for _ in range(100)) == 10


def test_sources_do_not_share_a_budget() -> None:
    limiter = RateLimiter(rate=1, max_sources=5)
    for _ in range(10):
        limiter.allow("a", 0.0)
    assert limiter.allow("b", 0.0)


def test_the_number_of_sources_is_bounded() -> None:
    limiter = RateLimiter(rate=1, max_sources=5)
    for number in range(100):
        limiter.allow(f"s{number}", 0.0)
    assert len(limiter._buckets) == 5


def test_a_whole_ipv6_network_is_one_source_and_a_loopback_port_is_one_too() -> None:
    assert source_of(("2001:db8::1", 1)) == source_of(("2001:db8::ffff:2", 2))
    assert source_of(("2001:db8::1", 1)) != source_of(("2001:db8:0:1::1", 1))
    assert source_of(("10.0.0.1", 1)) == source_of(("10.0.0.1", 2))
    assert source_of(("127.0.0.1", 1)) != source_of(("127.0.0.1", 2))
