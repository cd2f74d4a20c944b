"""Shows a run: SQL over its tables, its pairs, both clips of a pair, scores, margins, reward distributions.

    marimo run notebooks/inspect_pairs.py -- --run-dir runs/RUN      (or AVPREF_RUN=runs/RUN; default: the newest under runs/)

It reads the run folder and never writes to it. ``marimo edit`` instead of ``run`` shows the code.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Pairs of a run")


@app.cell
def _():
    import os
    from pathlib import Path

    import duckdb
    import marimo as mo

    from avpref.datasets.metric_tables import metrics_of_table
    from avpref.datasets.tables import PAIRS, TABLES
    from avpref.datasets.views import connect_locked
    from avpref.domain import dimensions_of
    from avpref.reports.figures import NORMALISED, RAW, dimension_name, margin_panels, origin_panels
    from avpref.reports.templates import drawing
    from avpref.storage.run_folder import list_runs, open_root

    return (
        NORMALISED,
        PAIRS,
        Path,
        RAW,
        TABLES,
        connect_locked,
        dimension_name,
        dimensions_of,
        drawing,
        duckdb,
        list_runs,
        margin_panels,
        metrics_of_table,
        mo,
        open_root,
        origin_panels,
        os,
    )


@app.cell
def _(Path, list_runs, mo, os):
    run_dir = mo.cli_args().get("run-dir") or os.environ.get("AVPREF_RUN", "")
    runs = Path(run_dir).resolve().parent if run_dir else Path("runs").resolve()
    run_names = list_runs(runs)
    initial = Path(run_dir).resolve().name if run_dir else next(iter(run_names), None)
    mo.stop(
        initial not in run_names,
        mo.callout(
            mo.md(
                f"There is no run `{initial or ''}` in `{runs}`. Give one: `-- --run-dir RUNS/RUN`, or set `AVPREF_RUN`."
            ),
            kind="warn",
        ),
    )
    picked = mo.ui.dropdown(run_names, value=initial, label="Run")
    mo.vstack([mo.md("# Pairs of a run"), picked])
    return picked, runs


@app.cell
def _(TABLES, connect_locked, open_root, picked, runs):
    folder = open_root(runs / picked.value)
    tables = {table.name: folder.tables.read(table) for table in TABLES if folder.tables.has(table)}
    connection = connect_locked(tables)
    return connection, folder, tables


@app.cell
def _(mo, tables):
    rows_of = {name: arrow.num_rows for name, arrow in tables.items()}
    query = mo.ui.code_editor(
        "SELECT origin, count(*) AS clips, avg(video) AS video, avg(audio) AS audio, avg(av) AS av\n"
        "FROM rewards JOIN candidates USING (candidate_id)\n"
        "GROUP BY origin ORDER BY origin",
        language="sql",
        debounce=True,
    )
    mo.vstack(
        [
            mo.md("## SQL"),
            mo.md("Tables (rows): " + ", ".join(f"`{name}` ({rows})" for name, rows in rows_of.items())),
            query,
        ]
    )
    return (query,)


@app.cell
def _(connect_locked, duckdb, mo, query, tables):
    def ask(text):
        """The result as a table, or DuckDB's error. Each query has its own connection, without access to files or network."""
        try:
            return mo.ui.table(connect_locked(tables).execute(text).df(), selection=None)
        except duckdb.Error as error:
            return mo.callout(str(error), kind="danger")

    answer = ask(query.value)
    answer
    return


@app.cell
def _(PAIRS, connection, dimensions_of, folder, metrics_of_table, mo):
    metrics = metrics_of_table(folder.tables.read(PAIRS))
    margins = ", ".join(f'"margin_{dimension}"' for dimension in dimensions_of(metrics))
    pairs = connection.execute(
        f"SELECT pair_id, text AS prompt, {margins}, margin_total, chosen_origin, rejected_origin, strategy, prompt_id"
        " FROM pairs JOIN prompts USING (prompt_id) ORDER BY margin_total DESC, pair_id"
    ).df()
    choice = mo.ui.table(
        pairs,
        selection="single",
        initial_selection=[0] if len(pairs) else None,
        page_size=8,
        format_mapping={name: "{:+.3f}" for name in pairs.columns if name.startswith("margin_")},
    )
    mo.vstack([mo.md(f"## Pairs\n{len(pairs)} pairs, largest total margin first. Select one."), choice])
    return choice, metrics, pairs


@app.cell
def _(choice, connection, mo):
    mo.stop(choice.value.empty, mo.md("*Select a pair to see its clips.*"))
    pair = (
        connection.execute(
            "SELECT pairs.*, text FROM pairs JOIN prompts USING (prompt_id) WHERE pair_id = ?",
            [choice.value.pair_id.iloc[0]],
        )
        .df()
        .iloc[0]
    )
    return (pair,)


@app.cell
def _(connection, folder, mo, pair):
    def clip(side):
        """A player of one side's clip, from its bytes."""
        path, origin = connection.execute(
            "SELECT path, origin FROM candidates WHERE candidate_id = ?", [pair[side]]
        ).fetchone()
        title = mo.md(f"**{side.capitalize()}** ({origin.replace('_', ' ')})")
        return mo.vstack([title, mo.video(folder.media.read(path), loop=True, width="100%", rounded=True)])

    players = mo.hstack([clip("chosen"), clip("rejected")], widths="equal", gap=1.5)
    mo.vstack([mo.md("### Both clips"), mo.plain_text(pair.text), players])
    return (players,)


@app.cell
def _(dimension_name, dimensions_of, metrics, mo, pair):
    scores = [
        {
            "score": metric.name.replace("_", " "),
            "unit": metric.unit,
            "better": "higher" if metric.higher_is_better else "lower",
            "dimension": dimension_name(metric.dimension),
            "chosen": pair[f"chosen_{metric.name}"],
            "rejected": pair[f"rejected_{metric.name}"],
            "chosen, normalised": pair[f"chosen_{metric.name}_normalised"],
            "rejected, normalised": pair[f"rejected_{metric.name}_normalised"],
        }
        for metric in metrics
    ]
    stats = [
        mo.stat(f"{pair[f'margin_{dimension}']:+.3f}", label=f"{dimension_name(dimension)} margin", bordered=True)
        for dimension in dimensions_of(metrics)
    ]
    score_table = mo.ui.table(
        scores,
        selection=None,
        pagination=False,
        format_mapping={name: "{:.3f}" for name in scores[0] if name.startswith(("chosen", "rejected"))},
    )
    mo.vstack([mo.hstack(stats, widths="equal"), score_table])
    return (scores,)


@app.cell
def _(NORMALISED, RAW, connection, drawing, folder, margin_panels, mo, origin_panels):
    unit = NORMALISED if folder.settings.pairs.normalise else RAW
    rewards = connection.execute("SELECT rewards.*, origin FROM rewards JOIN candidates USING (candidate_id)").df()
    panels = [*origin_panels(rewards, unit), *margin_panels(connection.execute("FROM pairs").df(), unit)]

    def picture(panel):
        """The panel's drawing for the notebook's theme."""
        light, dark = drawing(panel)
        return mo.image(dark if mo.app_meta().theme == "dark" else light, alt=panel.alt_text)

    width = len(panels) // 2
    figures = [mo.vstack([mo.md(f"**{panel.title}**"), picture(panel)]) for panel in panels]
    mo.vstack(
        [mo.md("## Distributions"), *(mo.hstack(figures[row : row + width], widths="equal") for row in (0, width))]
    )
    return


if __name__ == "__main__":
    app.run()
