"""What a worker that a command starts imports first, while the client does, too."""

from hkmeans_dask.cli.alone import alone

with alone():
    from hkmeans_dask.runtime.tasks import import_all

    import_all()
