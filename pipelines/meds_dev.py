"""`clinjepa meds-dev …`: the commands of this project's entry in the benchmark MEDS-DEV (`benchmarks/meds_dev/clinjepa/model.yaml`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines.terminal.arguments import ConfigPath, Debug, Overrides
from pipelines.terminal.faults import entered, one_line_errors
from pipelines.terminal.usage import Group

if TYPE_CHECKING:
    from collections.abc import Callable

    from clinjepa.config import Config
    from pipelines.graph.experiment import Experiment
    from pipelines.graph.stage import Stage

_HELP = "Train and predict on a MEDS data set with a label file as the only task, as the benchmark MEDS-DEV asks."
app = typer.Typer(cls=Group, help=_HELP, no_args_is_help=True, pretty_exceptions_enable=False)

Dataset = Annotated[str, typer.Option(help="Root of the MEDS data set, with data/ and metadata/subject_splits.parquet.")]
Labels = Annotated[str, typer.Option(help="Label file in MEDS's LabelSchema with boolean_value, or the folder of its shards.")]
Output = Annotated[str, typer.Option(help="Folder for what the command writes.")]


@app.command("pretrain")
def pretrain(config: ConfigPath, dataset: Dataset, output: Output, overrides: Overrides = None, debug: Debug = False) -> None:
    """Train encoder and predictor without labels; `train` of every task then starts from them."""
    with one_line_errors(debug):
        from pipelines.results.meds_dev import benchmark_config
        from pipelines.scheduling.locations import absolute

        storage = f"{output.rstrip('/')}/storage"
        trained = absolute(benchmark_config(config, overrides or [], dataset, storage))
        _run(trained, output, debug, lambda experiment: experiment.trials[0].embed)


@app.command("train")
def train(
    config: ConfigPath,
    dataset: Dataset,
    labels: Labels,
    output: Output,
    overrides: Overrides = None,
    pretrained: Annotated[str, typer.Option(help="Output of `pretrain` with the same configuration; nothing is trained twice.")] = "",
    debug: Debug = False,
) -> None:
    """Fit the probes of the label file's task, after training what is not trained yet. Its train and tuning subjects are read."""
    with one_line_errors(debug):
        from pipelines.results.meds_dev import benchmark_config, read_storage
        from pipelines.scheduling.locations import absolute

        storage = read_storage(pretrained) if pretrained else f"{output.rstrip('/')}/storage"
        trained = absolute(benchmark_config(config, overrides or [], dataset, storage, labels))
        _run(trained, output, debug, lambda experiment: experiment.trials[0].evaluations["downstream"])


@app.command("predict")
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Output of `train`.")],
    dataset: Dataset,
    labels: Labels,
    output: Output,
    split: Annotated[Literal["train", "tuning", "held_out"], typer.Option(help="Whose rows are predicted.")] = "held_out",
    debug: Debug = False,
) -> None:
    """Write predictions.parquet: the schema of meds-evaluation, exactly the label rows of the split, in their order. Needs no cluster."""
    with one_line_errors(debug):
        from clinjepa.storage import Folder
        from pipelines.results.meds_dev import PREDICTIONS, predict_split
        from pipelines.scheduling.progress import console

        table, line = predict_split(Folder(model), dataset, labels, split)
        out = Folder(output)
        out.write_table(PREDICTIONS, table)
        console.print(f"{line}\npredictions: {out.address}/{PREDICTIONS}", highlight=False, markup=False)


def _run(config: Config, output: str, debug: bool, wanted: Callable[[Experiment], Stage]) -> None:
    """Run a stage with its inputs and write the training's record into `output`."""
    from clinjepa.storage import Folder
    from pipelines.graph.artifacts import content_key
    from pipelines.results.meds_dev import write_training
    from pipelines.scheduling.opening import opened
    from pipelines.scheduling.runner import ensure
    from pipelines.stages.executors import EXECUTORS

    attempt = f"meds-dev-{content_key(Folder(output).address)[:8]}"  # trainings of several tasks share a storage
    with opened(config, lambda experiment: [wanted(experiment)], debug, command=attempt) as run:
        ensure(run.context, wanted(run.experiment), EXECUTORS)
    write_training(Folder(output), config, run.experiment)


if __name__ == "__main__":
    entered(lambda: app(prog_name="clinjepa meds-dev"))
