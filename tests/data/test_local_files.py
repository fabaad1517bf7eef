import os

import pytest

from flower_ddim.data.local_files import READ_WHOLE, content_key


def write(path, content, time):
    path.write_bytes(content)
    os.utime(path, ns=(time, time))
    return content_key([str(path)])


@pytest.mark.parametrize("size", [0, 100, READ_WHOLE, 3 * READ_WHOLE])
def test_the_key_of_a_file_is_that_of_its_content(tmp_path, size):
    path, content = tmp_path / "a", bytes(size)
    key = write(path, content, 10**18)
    assert content_key([str(path)]) == key
    assert (write(path, content, 10**18) == key) is (size <= READ_WHOLE)
    assert write(path, content + b"1", 10**18) != key
    middle = content[: size // 2] + b"1" + content[size // 2 + 1 :]
    for changed in (b"1" + content[1:], content[:-1] + b"1", middle) if size else ():
        assert write(path, changed, 10**18) != key


def test_every_file_counts_and_their_order(tmp_path):
    paths = [str(tmp_path / name) for name in "abc"]
    for path in paths[:2]:
        with open(path, "w") as file:
            file.write(path)
    assert len({content_key(order) for order in (paths, paths[:1], paths[1::-1], paths[:2])}) == 4  # "c" is missing
