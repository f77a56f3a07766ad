"""From a pipeline file to a finished run folder.

`load` reads a file, section by section (`validation`), by the table in `method`; each stage is a
module of `stages`, which `stage` describes. `placing` finds out what each stage reads and in which
order they run, so that a `context.Run` can be planned and run by `runner`: a stage runs when its
settings, its version or the hashes of what it reads differ from its `manifest`.

A stage gets a `Context`: its settings, its folder, and the folders and models that it reads. Those
that make rows share `data_stage` and `engines`, those that train share `launch` (several processes
by Accelerate, each of which runs `launched`). The stage `evaluate` and the command `cai evaluate`
share `evaluation`; `sets` reads prompt sets by name.
"""
