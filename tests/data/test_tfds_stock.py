"""Sets that tfds knows: what would fail is told in one sentence before TensorFlow or the network is tried."""

import contextlib
import http.server
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from jaxfair.data import tfds as prepared
from jaxfair.data.tfds import prepare_stock
from jaxfair.errors import JaxfairError


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Pretend that TensorFlow is installed and that tfds' builder of a set downloads from an address."""
    import tensorflow_datasets as tfds

    def pretend(url: str, fails: Exception | None = None, size: int = 10) -> list[Any]:
        calls: list[Any] = []
        tensorflow = ModuleType("tensorflow")
        tensorflow.__spec__ = ModuleSpec("tensorflow", None)
        tensorflow.config = SimpleNamespace(set_visible_devices=lambda *call: calls.append(call))  # pyright: ignore
        monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)

        def download_and_prepare(**options: Any) -> None:
            calls.append(options)
            if fails is not None:
                raise fails

        def builder(name: str, data_dir: str) -> SimpleNamespace:
            folder = str(Path(data_dir) / name / "3.0.2")
            return SimpleNamespace(data_dir=folder, download_and_prepare=download_and_prepare)

        monkeypatch.setattr(
            tfds, "builder_cls", lambda name: SimpleNamespace(url_infos={url: SimpleNamespace(size=size)})
        )
        monkeypatch.setattr(tfds, "builder", builder)
        return calls

    monkeypatch.setenv("no_proxy", "*")
    return pretend


def test_stock_set_without_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without TensorFlow the sentence names the extra and the other way, and tfds is not even imported."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(JaxfairError) as caught:
        prepare_stock("cifar10", tmp_path / "data", hint="put it there by hand")
    assert str(caught.value) == (
        f"'cifar10' is not prepared in {tmp_path / 'data'}, and tfds prepares it only with TensorFlow; "
        "install jaxfair[tensorflow], or put it there by hand."
    )
    assert not (tmp_path / "data").exists()


@contextlib.contextmanager
def server(status: int | None) -> Iterator[str]:
    """Yield the address of a server that answers with a status, or accepts connections and never answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status or 0)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listening:
        if status is not None:
            threading.Thread(target=listening.handle_request, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/set.tar.gz"


def test_stock_set_is_prepared_by_tfds(tmp_path: Path, stock: Callable[..., list[Any]]):
    """With TensorFlow and a network, tfds writes array_record files, and TensorFlow leaves the GPU to JAX."""
    with server(200) as url:
        calls = stock(url)
        assert prepare_stock("cifar10", tmp_path) == tmp_path / "cifar10" / "3.0.2"
    devices, options = calls
    assert devices == ([], "GPU")
    assert options["file_format"] == "array_record"
    assert options["download_config"].try_download_gcs is False


def test_stock_set_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is prepared needs neither TensorFlow nor a network."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        (folder / name).touch()
    assert prepare_stock("cifar10", tmp_path) == folder


@pytest.mark.parametrize(
    ("status", "reason"), [(None, r"within 0\.3 s|timed out"), (404, "404"), (503, "503"), (-1, "refused")]
)
def test_no_network(
    tmp_path: Path, stock: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch, status: int | None, reason: str
):
    """A server that is silent, absent or without the file is found out before tfds begins to try again and again."""
    monkeypatch.setattr(prepared, "TIMEOUT", 0.3)
    with server(status) as url:
        pass_on = "http://127.0.0.1:9/set.tar.gz" if status == -1 else url
        calls = stock(pass_on)
        with pytest.raises(JaxfairError, match=reason) as caught:
            prepare_stock("cifar10", tmp_path, hint="put it there by hand")
    assert str(caught.value).startswith("'cifar10' cannot be downloaded: no answer from http://127.0.0.1")
    assert str(caught.value).endswith("connect this machine to the network, or put it there by hand.")
    assert not calls


def test_slow_look_up_of_a_name(tmp_path: Path, stock: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch):
    """The time limit holds for what a socket's own does not cover."""
    done = threading.Event()
    monkeypatch.setattr(prepared, "TIMEOUT", 0.1)

    def urlopen(url: str, timeout: float) -> SimpleNamespace:
        done.wait(5)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    stock("http://127.0.0.1:9/set.tar.gz")
    with pytest.raises(JaxfairError, match=r"no answer from http://127.* within 0\.1 s"):
        prepare_stock("cifar10", tmp_path)
    done.set()


def test_stock_folder_that_is_no_whole_set(tmp_path: Path, stock: Callable[..., list[Any]]):
    """A version's folder without a set, which tfds would take for one, is named."""
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    with server(200) as url:
        stock(url)
        with pytest.raises(
            JaxfairError, match=r"3\.0\.2 is no whole set; remove it and prepare the set again\.$"
        ) as caught:
            prepare_stock("cifar10", tmp_path)
    assert "could not prepare" not in str(caught.value)


def test_stock_set_fails(tmp_path: Path, stock: Callable[..., list[Any]]):
    """What tfds raises is told in one sentence; so is a disk that is too small for the download."""
    with server(200) as url:
        stock(url, fails=RuntimeError("checksum differs\nand more"))
        with pytest.raises(JaxfairError, match=r"could not prepare 'cifar10' in .* \(checksum differs\); try again\.$"):
            prepare_stock("cifar10", tmp_path)
    stock("http://127.0.0.1:9/set.tar.gz", size=10**18)
    with pytest.raises(JaxfairError, match=r"free space where 2000000000\.00 GB are needed"):
        prepare_stock("cifar10", tmp_path)


def test_addresses_of_stock_sets_are_known_without_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tfds itself says from where it downloads each set; a name that it does not know is refused."""
    import tensorflow_datasets as tfds

    for name in ("cifar10", "svhn_cropped", "celeb_a"):
        assert tfds.builder_cls(name).url_infos
    tensorflow = ModuleType("tensorflow")
    tensorflow.__spec__ = ModuleSpec("tensorflow", None)
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    with pytest.raises(JaxfairError, match="tfds knows no data set 'cifar11'"):
        prepare_stock("cifar11", tmp_path)
