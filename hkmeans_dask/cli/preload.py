"""What a worker that a command starts imports first, while the client does, too."""

from hkmeans_dask.compat import lean_imports

with lean_imports():
    from hkmeans_dask.runtime.tasks import import_all

    import_all()
