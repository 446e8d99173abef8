import pytest

from distqatd.config.load import load


@pytest.mark.parametrize("text", ["[::1]:29700", "host:1,[2001:db8::7]:2"])
def test_an_ipv6_address_in_brackets_is_no_yaml_list(text: str) -> None:
    joined = load(env={"DISTQAT_NETWORK__JOIN": text}).config.network.join
    assert joined == tuple(text.split(","))


def test_a_yaml_list_of_addresses_is_a_list() -> None:
    joined = load(env={"DISTQAT_NETWORK__JOIN": '["[::1]:1", "host:2"]'}).config.network.join
    assert joined == ("[::1]:1", "host:2")
