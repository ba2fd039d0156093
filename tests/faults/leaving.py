"""A Work that leaves a file, for tests of what may stand in the way of that."""

import warnings

import lit_storage


def left_by(root, artifacts=None, text="text"):
    """Be a Work that declares a file of its own and ends; return what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with lit_storage.join("work", root=root, artifacts=artifacts) as session:
            with open(f"{session.storage_root}/file", "w") as file:
                file.write(text)
            session.declare(lit_storage.Path("lit://file"))
    # What other tests left behind in this process may be collected as garbage meanwhile.
    return [str(each.message) for each in caught if not issubclass(each.category, ResourceWarning)]
