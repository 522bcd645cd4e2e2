"""JSON schemas of the files, for editors: generated from the classes that read them.

python -m crossdock.configuration.schema FOLDER    write hub, system and pipeline schemas into FOLDER
"""

import json
import sys
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, create_model

from connectors.registry import known, system_class
from crossdock.configuration.hub import HubConfig
from crossdock.configuration.pipeline import PipelineConfig


def schemas() -> dict[str, Any]:
    """File name -> schema, for the connectors that are installed."""
    systems = [system_class(name) for name in sorted(known())]
    source: Any = reduce(or_, [each.source_class for each in systems])
    writeback: Any = reduce(or_, [each.writeback_class for each in systems])
    pipeline = create_model(
        "Pipeline", __base__=PipelineConfig, source=(source, ...), writeback=(tuple[writeback, ...], ())
    )
    system: Any = reduce(or_, systems)
    return {
        "hub.schema.json": HubConfig.model_json_schema(),
        "system.schema.json": TypeAdapter(system).json_schema(),
        "pipeline.schema.json": pipeline.model_json_schema(),
    }


def text_of(schema: Any) -> str:
    """As it stands in the file."""
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (target / name).write_text(text_of(schema), encoding="utf-8")
