"""What an operator sets: `EVOMERGE_*` environment variables, a `.env` file, or arguments of `evomerge serve`."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from pathlib import Path

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


class Settings(BaseSettings):
    """Where things lie and who may ask.

    Attributes:
        data_dir: the database and caches live here; created when missing.
        database_url: SQLAlchemy URL; None is a SQLite file in `data_dir`.
        registry: YAML file of model and eval set aliases (`workers.registry`); None is `registry.yaml` in `data_dir`.
        host: address to listen on. Anything but loopback needs a key.
        port: TCP port.
        api_key: what clients send as `Authorization: Bearer …`; None on loopback means that none is asked for.
        api_key_sha256: the key's SHA-256 in hexadecimal, for those who do not want the key itself in a file.
        allowed_hosts: names that may stand in a request's Host header (against DNS rebinding), beside loopback's.
        max_body_bytes: largest request body.
        allow_code: whether the metric `code_passes` may run Python that candidates wrote, in a sandbox
            (docs/adr/0023-code-sandbox.md).
        poll_s: how often one poller per watched run looks for new events.
    """

    model_config = SettingsConfigDict(env_prefix="EVOMERGE_", extra="ignore")

    data_dir: Path = Path("evomerge-data")
    database_url: str | None = None
    registry: Path | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8765, ge=0, le=65535)
    api_key: SecretStr | None = None
    api_key_sha256: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    allow_code: bool = False
    poll_s: float = Field(default=0.2, gt=0, le=60)

    @field_validator("api_key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value()) < 16:
            raise ValueError("api_key must have at least 16 characters")
        return key

    @field_validator("api_key_sha256")
    @classmethod
    def _hexadecimal(cls, digest: str | None) -> str | None:
        if digest is not None and (len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef")):
            raise ValueError("api_key_sha256 must be 64 hexadecimal digits")
        return digest.lower() if digest else None

    @model_validator(mode="after")
    def _closed_by_default(self) -> Settings:
        if not is_loopback(self.host) and self.key_sha256 is None:
            raise ValueError(
                f"host {self.host!r} can be reached from other machines, so an API key is needed: "
                "set EVOMERGE_API_KEY, or listen on 127.0.0.1"
            )
        return self

    @property
    def key_sha256(self) -> str | None:
        """The key's SHA-256; None when no key is asked for. Keys are random, so a slow hash would buy nothing."""
        if self.api_key is not None:
            return hashlib.sha256(self.api_key.get_secret_value().encode()).hexdigest()
        return self.api_key_sha256

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'evomerge.sqlite3'}"

    @property
    def registry_path(self) -> Path:
        """The file of aliases."""
        return self.registry or self.data_dir / "registry.yaml"

    @property
    def hosts(self) -> frozenset[str]:
        """All names that a Host header may hold, lower case."""
        own = () if self.host in ("0.0.0.0", "::") else (self.host,)
        return frozenset(name.lower().strip("[]") for name in (*LOOPBACK_HOSTS, *own, *self.allowed_hosts))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`.

    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def settings_of(**given: object) -> Settings:
    """Settings of the environment; arguments that are not None win."""
    return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # validated by pydantic


def user_cache() -> Path:
    """What commands without a data directory may remember of the files on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evomerge"
