"""Settings: closed by default."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from api.settings import Settings

KEY = "evm_0123456789abcdef"


def test_a_host_that_others_reach_needs_a_key() -> None:
    with pytest.raises(ValidationError, match="API key"):
        Settings(host="0.0.0.0")

    assert Settings(host="0.0.0.0", api_key=KEY).key_sha256 == hashlib.sha256(KEY.encode()).hexdigest()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_key(host: str) -> None:
    assert Settings(host=host).key_sha256 is None


def test_the_key_can_be_given_as_its_hash() -> None:
    digest = hashlib.sha256(KEY.encode()).hexdigest()

    assert Settings(host="0.0.0.0", api_key_sha256=digest.upper()).key_sha256 == digest


def test_short_keys_and_malformed_hashes_are_refused() -> None:
    with pytest.raises(ValidationError, match="16 characters"):
        Settings(api_key="short")
    with pytest.raises(ValidationError, match="64 hexadecimal"):
        Settings(api_key_sha256="12")


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EVOMERGE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("EVOMERGE_ALLOWED_HOSTS", '["merge.example"]')

    settings = Settings()

    assert settings.url == f"sqlite:///{tmp_path}/evomerge.sqlite3"
    assert "merge.example" in settings.hosts


def test_the_key_does_not_show_in_a_printout() -> None:
    assert KEY not in repr(Settings(api_key=KEY))
