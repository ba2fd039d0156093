"""Python processes on one or many machines hand each other files by path.

    from lit_storage import App, Flow, Path, Work

Start reading at `lit_storage.paths.path` (what a user holds), `lit_storage.apps.work` and
`lit_storage.apps.app` (whose process it runs in), and `lit_storage_client.fetch` (how bytes get here).
"""

from lit_storage.apps.app import App
from lit_storage.apps.flow import Flow
from lit_storage.apps.supervisor import Status
from lit_storage.apps.work import Work
from lit_storage.paths.path import Path
from lit_storage.sessions.session import Session, connect, current, join
from lit_storage_client.fetch import Transfer
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import (
    AccessDenied,
    AddressInUse,
    ExecutorUnavailable,
    IntegrityError,
    InvalidApp,
    InvalidConfig,
    InvalidURI,
    NameTaken,
    NotAttached,
    OriginUnavailable,
    PathExists,
    PathNotFound,
    ProtocolViolation,
    RegistryUnavailable,
    SourceChanged,
    StorageError,
    TransferTimeout,
    WorkError,
)
from lit_storage_proto.limits import Limits

__version__ = "0.1.0"

LightningApp = App
LightningFlow = Flow
LightningWork = Work

__all__ = [
    "AccessDenied",
    "AddressInUse",
    "App",
    "ExecutorUnavailable",
    "Flow",
    "IntegrityError",
    "InvalidApp",
    "InvalidConfig",
    "InvalidURI",
    "LightningApp",
    "LightningFlow",
    "LightningWork",
    "Limits",
    "NameTaken",
    "NotAttached",
    "OriginUnavailable",
    "Path",
    "PathExists",
    "PathNotFound",
    "ProtocolViolation",
    "RegistryUnavailable",
    "Security",
    "Session",
    "SourceChanged",
    "Status",
    "StorageError",
    "Transfer",
    "TransferTimeout",
    "Work",
    "WorkError",
    "connect",
    "current",
    "join",
]
