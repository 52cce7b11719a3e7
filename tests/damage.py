"""What may become of a file: kinds of damage that several test modules do.

Each takes the path, what is `Beside`, and the chance by which to choose.
"""

import os


class Beside:
    """What is beside the folder of a fit, and must stay as it is."""

    def __init__(self, parent):
        self.folder, self.file = parent / "outside", parent / "outside" / "file"
        self.folder.mkdir()
        self.file.write_bytes(b"precious")
        self.pickled = self.folder / "pickled"
        self.before = self.seen()

    def seen(self):
        """Look at what is there now."""
        status = os.stat(self.file)
        return sorted(os.listdir(self.folder)), self.file.read_bytes(), status.st_mtime


def cut(path, beside, chance):
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data) + 1)])


def flip(path, beside, chance):
    data = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 3) if data else 0):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def longer(path, beside, chance):
    path.write_bytes(path.read_bytes() + chance.randbytes(30))


def gone(path, beside, chance):
    path.unlink()


def noise(path, beside, chance):
    path.write_bytes(chance.randbytes(chance.choice([0, 16, 1000])))


def folder(path, beside, chance):
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "file").write_bytes(b"file")


def link(path, beside, chance):
    path.unlink(missing_ok=True)
    targets = (beside.file, beside.folder, beside.folder / "new", path, "..", ".")
    path.symlink_to(chance.choice(targets))


def pipe(path, beside, chance):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path, beside, chance):
    path.unlink(missing_ok=True)
    path.symlink_to(chance.choice(["/dev/zero", "/dev/full", "/dev/null"]))


def sparse(path, beside, chance):
    with path.open("ab") as file:
        file.truncate(2**36)


ANYWHERE = (folder, link, pipe, device)
"""Those that need no file to begin with."""

OF_FILES = (cut, flip, longer, gone, noise, sparse, *ANYWHERE)
"""Those that know nothing of what is in a file."""
