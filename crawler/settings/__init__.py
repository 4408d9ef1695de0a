"""Every setting: its type, unit, meaning and default, and where its value came from.

    defaults  <  file  <  spider  <  environment  <  command line

`tables.py` is the only list of settings there is. `layers.py` keeps what a user wrote in each place, unjudged; `load`
judges all layers together, so one run shows every mistake and not just the first.

Secrets arrive here (proxy passwords, API keys). No `repr`, row or error message of this package shows one.
"""

from __future__ import annotations

from crawler.settings.layers import (
    Layer,
    command_line_layer,
    environment_arguments,
    environment_layer,
    file_layer,
    mapping_layer,
    spider_layer,
)
from crawler.settings.listing import Row, default_file, describe
from crawler.settings.merge import Loaded, load
from crawler.settings.tables import (
    PROJECT_URL,
    CrawlSettings,
    DnsSettings,
    FrontierSettings,
    HttpSettings,
    LogSettings,
    PolitenessRule,
    PolitenessSettings,
    ProxySettings,
    RetrySettings,
    SecuritySettings,
    Settings,
    StatusSettings,
    TlsSettings,
)
from crawler.settings.values import StatusSet

__all__ = [
    "PROJECT_URL",
    "CrawlSettings",
    "DnsSettings",
    "FrontierSettings",
    "HttpSettings",
    "Layer",
    "Loaded",
    "LogSettings",
    "PolitenessRule",
    "PolitenessSettings",
    "ProxySettings",
    "RetrySettings",
    "Row",
    "SecuritySettings",
    "Settings",
    "StatusSet",
    "StatusSettings",
    "TlsSettings",
    "command_line_layer",
    "default_file",
    "describe",
    "environment_arguments",
    "environment_layer",
    "file_layer",
    "load",
    "mapping_layer",
    "spider_layer",
]
