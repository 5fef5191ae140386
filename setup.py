"""Build the compiled core; everything declarative stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    package_dir={"": "engine"},
    packages=find_packages("engine"),
    package_data={"bitcoin_sprint": ["*.pyi", "py.typed", "default.toml", "include/*.h"]},
    cffi_modules=["native/ffi_build.py:ffi"],
    # One wheel serves Python 3.11 and later: the module uses the limited API alone.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
