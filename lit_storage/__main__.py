"""``python -m lit_storage`` is the command ``lit-storage`` of that Python."""

from lit_storage.cli.main import main

if __name__ == "__main__":
    main(prog_name="python -m lit_storage")
