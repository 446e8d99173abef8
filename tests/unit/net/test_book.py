from distqatd.net.address import Address
from distqatd.net.book import MAX_ADDRESSES, MAX_PEERS, AddressBook, parse_advertised


def address(number):
    return Address("10.0.0.1", number)


def test_what_was_learnt_last_comes_first():
    book = AddressBook()
    book.learn("a", [address(1), address(2)])
    book.learn("a", [address(3), address(2)])
    assert book.addresses("a") == (address(3), address(2), address(1))
    assert book.addresses("b") == ()


def test_the_book_is_bounded_in_both_ways():
    book = AddressBook()
    book.learn("a", [address(port) for port in range(1, 100)])
    assert len(book.addresses("a")) == MAX_ADDRESSES
    for number in range(MAX_PEERS):
        book.learn(f"p{number}", [address(1)])
    assert book.addresses("a") == ()


def test_advertised_nonsense_is_left_out():
    assert parse_advertised(["/x/y", "10.0.0.1:5", ""]) == [address(5)]
