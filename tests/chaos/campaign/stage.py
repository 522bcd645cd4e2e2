"""The campaign's stage: the demo's servers with tables of our own, and the hub's files."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa

from connectors.clock import SystemClock
from crossdock.demo.stage import Stage, configuration_folder, stop_kept

HERE = Path(__file__).parent


class CampaignStage(Stage):
    """Everything that one run needs but workers, under one folder; each `begin()` begins with empty systems."""

    def __init__(self, folder: Path, flags: Mapping[str, Sequence[str]]) -> None:
        """`flags` are further arguments for the command lines of the register and the stations: their quirks."""
        super().__init__(folder, SystemClock(), registry=flags.get("registry", ()), stations=flags.get("stations", ()))
        self.hub = self.folder / "hub"

    def begin(self) -> None:
        stop_kept(self.folder)  # what a run left that was itself killed
        shutil.rmtree(self.folder, ignore_errors=True)
        self.start(lambda what, where: None)
        engine = sa.create_engine(self.flightops_url)
        with engine.begin() as connection:
            connection.connection.driver_connection.execute((HERE / "tables.sql").read_text())  # type: ignore[union-attr]
        engine.dispose()
        shutil.copytree(HERE / "hub", self.hub)
        shutil.copytree(configuration_folder() / "wsdl", self.hub / "wsdl")
        for system in ("registry", "stations"):
            shutil.copy(configuration_folder() / "systems" / f"{system}.yaml", self.hub / "systems")

    @property
    def environ(self) -> dict[str, str]:
        return {**super().environ, "CROSSDOCK_SYSTEMS__WAREHOUSE__URL": self.addresses.flightops}
