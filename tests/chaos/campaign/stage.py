"""The campaign's stage: the demo's servers with tables of our own, proxies where they are asked for, and files."""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa

from connectors.clock import SystemClock
from crossdock.demo.stage import Stage, configuration_folder, stop_kept
from crossdock.ports import free_port
from tests.chaos.campaign.cluster import Cluster
from tests.proxy import Proxy

HERE = Path(__file__).parent


class CampaignStage(Stage):
    """Everything that one run needs but workers, under one folder; each `begin()` begins with empty systems."""

    def __init__(
        self, folder: Path, flags: Mapping[str, Sequence[str]], *, brokers: int, proxied: Sequence[str], seed: int
    ) -> None:
        """
        Args:
            folder: everything lies under it.
            flags: further arguments for the command lines of the register and the stations: their quirks.
            brokers: 1 or 3.
            proxied: systems that the workers reach through a proxy.
            seed: what is random about the proxies follows from it.
        """
        super().__init__(folder, SystemClock(), registry=flags.get("registry", ()), stations=flags.get("stations", ()))
        self.cluster = Cluster(self.folder / "kafka")
        if brokers > 1:
            self.broker = self.cluster  # type: ignore[assignment]
        self.small_disk = Path(tempfile.gettempdir()) / f"crossdock-chaos-{os.getpid()}"
        """Where a scenario mounts a file system that can be filled."""
        self.hub = self.folder / "hub"
        self.proxies: dict[str, Proxy] = {}
        self._proxied, self._seed = proxied, seed
        arguments = [*flags.get("registry", ())]
        self.refused = {value for name, value in itertools.pairwise(arguments) if name in ("--rejected", "--faulty")}
        """Aircraft whose update the register refuses."""

    def begin(self) -> None:
        stop_kept(self.folder)  # what a run left that was itself killed
        shutil.rmtree(self.folder, ignore_errors=True)
        self.start(lambda what, where: None)
        self._make_tables()
        shutil.copytree(HERE / "hub", self.hub)
        shutil.copytree(configuration_folder() / "wsdl", self.hub / "wsdl")
        for system in ("registry", "stations"):
            shutil.copy(configuration_folder() / "systems" / f"{system}.yaml", self.hub / "systems")
        ports = {**self._ports, "flightops": self.postgres.port, "warehouse": self.postgres.port}
        for number, system in enumerate(self._proxied):
            self.proxies[system] = Proxy("127.0.0.1", ports[system], listen=free_port(), seed=self._seed + number)

    def end(self) -> None:
        """Ends all of it, whatever state it is in."""
        for proxy in self.proxies.values():
            proxy.close()
        self.stop()
        if self.small_disk.exists():
            subprocess.run(["umount", str(self.small_disk)], check=False, capture_output=True)
            self.small_disk.rmdir()

    @property
    def environ(self) -> dict[str, str]:
        """What a worker needs: the servers' addresses, or those of their proxies."""
        found = {**super().environ, "CROSSDOCK_SYSTEMS__WAREHOUSE__URL": self.addresses.flightops}
        ports = {**self._ports, "flightops": self.postgres.port, "warehouse": self.postgres.port}
        for system, proxy in self.proxies.items():
            for name in ("URL", "ADDRESS", "BASE_URL"):
                variable = f"CROSSDOCK_SYSTEMS__{system.upper()}__{name}"
                if variable in found:
                    found[variable] = found[variable].replace(f":{ports[system]}", f":{proxy.port}")
        return found

    def connect(self) -> sa.Engine:
        """As somebody who is not the hub."""
        return sa.create_engine(self.flightops_url, pool_size=1, connect_args={"connect_timeout": 5})

    def _make_tables(self) -> None:
        engine = self.connect()
        with engine.begin() as connection:
            connection.connection.driver_connection.execute((HERE / "tables.sql").read_text())  # type: ignore[union-attr]
        engine.dispose()
