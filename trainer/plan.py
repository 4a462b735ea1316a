"""Plan where tables go, on GPUs that need not be here: ``python -m trainer.plan``.

Neither data nor GPUs are needed: tables stay on the meta device, sizes come from the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore

from feature_repo.contract.artifacts import write_json
from feature_repo.contract.errors import ConfigError, ShoprecError
from trainer.config import choices, compose_as, register
from trainer.distributed import set_up_logging
from trainer.model_config import TwoTowerModelConfig
from trainer.planning.config import Machine, PlanConfig
from trainer.planning.result import make_plan
from trainer.planning.text import Remedy, describe, explain
from trainer.ranker_config import RankerModelConfig
from trainer.sharding import NoRoom
from trainer.sharding_config import Strategy

USAGE = """\
Plan where the tables of an experiment go: on which processes, in how much memory, with how many
bytes sent in a step. It needs no GPU and no data.

  python -m trainer.plan experiment=NAME users=N items=N [KEY=VALUE ...] [--json FILE]

  experiment        one of {experiments}
  sharding          one of {sharding}
  device            one of {devices}
  users, items      how many have a row of their own
  world_size        processes, one for each GPU (1)
  local_world_size  processes of a node (8, or all where they are fewer)
  targets           items that an example is trained on (10)
  --json FILE       write the plan there too

Every setting of a run may be given, such as model.id_dim=128, trainer.batch_size=65536,
optimizer.table_dtype=fp16, sharding.reserve=0.2 or sharding.hbm_gb=60.

Examples:
  python -m trainer.plan experiment=two_tower users=100000000 items=10000000 device=h200
  python -m trainer.plan experiment=two_tower users=100000000 items=10000000 world_size=64

The exit code is 2 where the tables do not fit; what would make them fit is said.
"""
Change = tuple[str, ...]
HALVED = "optimizer.table_dtype=fp16"
MOST_PROCESSES = 1024
"""The largest run that is tried where tables do not fit."""


def compose_plan(overrides: Sequence[str]) -> PlanConfig:
    """Compose ``conf/plan.yaml`` and ``overrides``; see ``compose_as``."""
    register()
    ConfigStore.instance().store(name="plan_schema", node=PlanConfig, provider="trainer")
    return compose_as(PlanConfig, "plan", overrides)


def remedies(arguments: Sequence[str]) -> list[Remedy]:
    """Changes of the settings with which a plan fits, each by itself.

    Where no single one is enough: fp16 with as many processes as it takes.
    """
    config = compose_plan(arguments)
    alone = [_first(arguments, steps) for steps in _changes(config)]
    found = [remedy for remedy in alone if remedy is not None]
    if found:
        return found
    both = _first(arguments, [(HALVED, *step) for step in _more_processes(config)])
    return [] if both is None else [both]


def _first(arguments: Sequence[str], steps: Sequence[Change]) -> Remedy | None:
    """The first change that is enough."""
    for overrides in steps:
        try:
            return Remedy(overrides, make_plan(compose_plan(changed(arguments, overrides))))
        except ConfigError:
            continue
    return None


def changed(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The arguments with some settings replaced."""
    names = {override.partition("=")[0] for override in overrides}
    return [a for a in arguments if a.partition("=")[0] not in names] + list(overrides)


def _changes(config: PlanConfig) -> list[list[Change]]:
    """Kinds of changes; those of a kind from the smallest on."""
    halved: list[Change] = [(HALVED,)]
    changes = [halved, _narrower(config), _smaller_batches(config), _more_processes(config)]
    if config.device is not Machine.cpu:
        changes.insert(2, [("sharding=uvm_caching",)])
        size = config.device.hardware.hbm_bytes
        larger = [machine for machine in Machine if machine.hardware.hbm_bytes > size]
        changes.append([(f"device={machine.value}",) for machine in larger])
    return changes


def _narrower(config: PlanConfig) -> list[Change]:
    """Widths of the id tables that are multiples of 4: 3/4, 1/2 and 1/4 of what is asked for."""
    match config.model:
        case RankerModelConfig(network=network):
            key, dim = "model.network.id_dim", network.id_dim
        case TwoTowerModelConfig(id_dim=dim):
            key = "model.id_dim"
        case _:
            return []
    sizes = [dim * part // 16 * 4 for part in (3, 2, 1)]
    return [(f"{key}={size}",) for size in sizes if size > 0]


def _smaller_batches(config: PlanConfig) -> list[Change]:
    steps: list[Change] = []
    size = config.trainer.batch_size // 2
    while size >= config.world_size:
        steps.append((f"trainer.batch_size={size}",))
        size //= 2
    return steps


def _more_processes(config: PlanConfig) -> list[Change]:
    steps: list[Change] = []
    size = config.world_size * 2
    while size <= MOST_PROCESSES:
        steps.append((f"world_size={size}",))
        size *= 2
    return steps


def main(arguments: Sequence[str]) -> int:
    """Print a plan; return 0, 1 after an error, 2 where the tables do not fit."""
    if not arguments or {"-h", "--help"} & set(arguments):
        sys.stdout.write(usage())
        return 0 if arguments else 2
    set_up_logging()
    overrides = list(arguments)
    try:
        target = _take_json(overrides)
        plan = make_plan(compose_plan(overrides))
    except NoRoom as error:
        sys.stdout.write(f"{explain(str(error), remedies(overrides))}\n")
        return 2
    except ShoprecError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{describe(plan)}\n")
    if target is not None:
        write_json(target, plan.to_json())
    return 0


def _take_json(arguments: list[str]) -> Path | None:
    """Take ``--json FILE`` out of the arguments."""
    if "--json" not in arguments:
        return None
    place = arguments.index("--json")
    named = arguments[place + 1 : place + 2]
    if not named:
        raise ConfigError("--json needs the name of a file.")
    del arguments[place : place + 2]
    return Path(named[0])


def usage() -> str:
    """The text of ``--help``."""
    return USAGE.format(
        experiments=", ".join(choices("experiment")),
        sharding=", ".join(strategy.value for strategy in Strategy),
        devices=", ".join(machine.value for machine in Machine),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
