"""The engines that tests of shared frontiers run against."""

from __future__ import annotations

import pytest

from tests.engines import Cluster, Server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
