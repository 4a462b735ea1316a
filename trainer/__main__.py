"""Train a model: ``python -m trainer experiment=NAME cutoff=TIME [KEY=VALUE ...]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from feature_repo.contract.errors import ShoprecError
from ranking.rankers import RANKERS
from trainer.config import MODELS, RunConfig, choices, compose
from trainer.distributed import Process, process_group, set_up_logging
from trainer.factor_config import LightGcnConfig, MfConfig
from trainer.model_config import GraphSageModelConfig, ModelConfig, TwoTowerModelConfig
from trainer.ncf_config import NcfConfig
from trainer.ranker_config import RankerModelConfig
from trainer.run_file import STOPPED, tell_stopped
from trainer.source_config import BlendConfig, FittedModelConfig

USAGE = """\
Train a model on a training set, and write its run folder.

  python -m trainer experiment=NAME cutoff=TIME [KEY=VALUE ...]
  torchrun --nproc-per-node N -m trainer experiment=NAME cutoff=TIME [KEY=VALUE ...]
  python -m trainer like=RUN cutoff=TIME [KEY=VALUE ...]
  python -m trainer --multirun [hydra/launcher=slurm] experiment=NAME KEY=VALUE,VALUE [...]
  python -m trainer experiment=NAME init=release data.since=last [init.hold_days=1] [KEY=VALUE ...]

  experiment  one of {experiments}
  cutoff      t0, t1, t2, t3 (edges of the data set's windows) or an ISO time
  data        one of {data}
  model       one of {model}
  sharding    one of {sharding}
  index       one of {index}
  debug       one of {debug}

Examples:
  python -m trainer experiment=complete_journey/two_tower cutoff=t1
  python -m trainer experiment=two_tower data=parquet data.name=myshop cutoff=t1 trainer.epochs=5
  python -m trainer experiment=complete_journey/two_tower cutoff=t1 debug=default

The last line on stdout is the run's folder. Started again with the same settings, a finished run
is found and an interrupted one goes on from its last checkpoint. A file STOP in the folder makes
it write a checkpoint and end with exit code 75.

With like=RUN what is not said is as in the folder of that run, but for its data and times.

With --multirun every combination of the values is trained: one after the other, or each in a SLURM
job of its own (conf/hydra/launcher/slurm.yaml; hydra.launcher.partition=NAME and so on). A table
of the results comes last; the exit code is 1 if any of the runs is not finished.

With init=release the two-tower of the published release goes on with what came in since its
cut-off; its rankers are taken over (init.rankers=train: trained anew). The newest init.hold_days
judge the result beside the published release, and it takes that one's place unless it is worse
beyond noise (trainer/continuing.py).

Settings, with their values by default:
"""


def usage() -> str:
    """The text of ``--help``."""
    groups = {
        name: ", ".join(choices(name)) for name in ("data", "model", "sharding", "index", "debug")
    }
    experiments = ", ".join(choices("experiment"))
    lines = [USAGE.format(experiments=experiments, **groups)]
    lines += _settings(RunConfig, "", {"model", "data"})
    for kind, model in MODELS.items():
        lines += ["", f"  With model={kind}:", *_settings(model, "model.", set())]
    for kind, ranker in RANKERS.items():
        lines += ["", f"  With model={kind}:", *_settings(RankerModelConfig, "model.", {"network"})]
        lines += _settings(ranker.config, "model.network.", set())
    return "\n".join(lines) + "\n"


def _settings(config: Any, prefix: str, skipped: set[str]) -> list[str]:
    lines = []
    for item in fields(config):
        factory: Any = item.default_factory
        value = factory() if callable(factory) else item.default
        if item.name in skipped:
            continue
        if is_dataclass(value):
            lines += _settings(type(value), f"{prefix}{item.name}.", set())
        else:
            shown = getattr(value, "value", "null" if value is None else value)
            lines.append(f"  {prefix + item.name + '=' + str(shown):<36}")
    return [line.rstrip() for line in lines]


def main(arguments: Sequence[str]) -> int:
    """Train; return 0, 1 after an error that is told on stderr, 75 when asked to stop."""
    if not arguments or {"-h", "--help"} & set(arguments):
        sys.stdout.write(usage())
        return 0 if arguments else 2
    set_up_logging()
    from trainer.loop import Stopped

    try:
        if {"--multirun", "-m"} & set(arguments):
            from trainer.multirun import sweep

            return 0 if sweep(arguments) else 1
        if any(argument.startswith("init=") for argument in arguments):
            from trainer.continuing import go_on

            sys.stdout.write(f"{go_on(arguments)}\n")
            return 0
        config = compose(arguments)
        with process_group(config.sharding.device) as process:
            try:
                folder = _train(config, config.model, process)
            except Stopped:
                _tell_stopped(process)
                raise
            if process.is_first:
                sys.stdout.write(f"{folder}\n")
    except ShoprecError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Stopped:
        return STOPPED
    return 0


def _tell_stopped(process: Process) -> None:
    """Before any process ends: torchrun ends the others as soon as one has a code above 0."""
    if process.is_first:
        tell_stopped(STOPPED)
    process.barrier()


def _train(config: RunConfig, model: ModelConfig, process: Any) -> Any:
    match model:
        case GraphSageModelConfig():
            from trainer import graphsage, two_tower

            return two_tower.train(config, model, process, graphsage.GraphSageTask)
        case TwoTowerModelConfig():
            from trainer import two_tower

            return two_tower.train(config, model, process)
        case RankerModelConfig():
            from trainer import ranker_run

            return ranker_run.train(config, model, process)
        case MfConfig():
            from trainer import id_task, mf

            return id_task.train(mf.MfTask, config, model, process)
        case LightGcnConfig():
            from trainer import id_task, lightgcn

            return id_task.train(lightgcn.LightGcnTask, config, model, process)
        case NcfConfig():
            from trainer import id_task, ncf

            return id_task.train(ncf.NcfTask, config, model, process)
        case BlendConfig():
            from trainer import blend

            return blend.train(config, model, process)
        case FittedModelConfig():
            from trainer import fitted

            return fitted.train(config, model, process)
        case _:
            raise TypeError(f"No model is trained from {type(model).__name__}.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
