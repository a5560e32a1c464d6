"""The loader of last resort for ``linzoo_load_teacher``: any variant that plain diffusers can load.

A plugin that knows better implements the hook too and is asked first.
"""

from __future__ import annotations

from linzoo.plugin import LoadedTeacher, TeacherRequest, hookimpl


@hookimpl(trylast=True)
def linzoo_load_teacher(request: TeacherRequest) -> LoadedTeacher:
    """Build the pipeline with diffusers; see :func:`linzoo.checkpoints.pipeline.build_pipeline`."""
    from linzoo.checkpoints.pipeline import build_pipeline

    return LoadedTeacher(pipeline=build_pipeline(request))
