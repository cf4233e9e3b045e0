"""Groups of commands that are imported only when they are called."""

import importlib

import click


class LazyCommands(click.Group):
    """A group over `places`: command name to "module:attribute"."""

    def __init__(self, *args: object, places: dict[str, str], **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.places:
            return None
        module, _, attribute = self.places[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command
