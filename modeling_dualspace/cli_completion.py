"""The command `dualspace completion`: what a shell needs to complete commands, options and their values.

The script is made of the parser, so that it knows what the parser knows; the shell asks no Python while one types.
"""

import argparse
import json
from collections.abc import Callable, Iterator

from .cli_parts import add_command

_BASH = """# dualspace completion bash; zsh reads it too, after: autoload -Uz bashcompinit && bashcompinit
_dualspace() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words="" only=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "${{COMP_WORDS[1]}}:$before" in
{values}
            *) case "${{COMP_WORDS[1]}}" in
{options}
            esac ;;
        esac
    fi
    local IFS=$'\n'
    COMPREPLY=( $(IFS=' '; compgen -W "$words" -- "$current") )
    case "$current$only" in -*|*only) ;; *) COMPREPLY+=( $(compgen -f -- "$current") ) ;; esac
}}
complete -o filenames -F _dualspace dualspace
"""


def add_completion(commands: argparse._SubParsersAction) -> None:
    """`dualspace completion`."""
    command = add_command(
        commands,
        "completion",
        help="print what a shell needs to complete these commands",
        description="Prints a script for bash, zsh or fish that completes commands, options, and names of recipes and "
        "suites. Files are completed everywhere.",
        examples=(
            "dualspace completion bash > ~/.local/share/bash-completion/completions/dualspace",
            "dualspace completion zsh > ~/.dualspace-completion && echo 'source ~/.dualspace-completion' >> ~/.zshrc",
            "dualspace completion fish > ~/.config/fish/completions/dualspace.fish",
        ),
    )
    command.add_argument("shell", metavar="SHELL", choices=sorted(_SHELLS), help="bash, zsh or fish")
    command.set_defaults(run=lambda arguments: _completion(arguments, commands.choices))


def _completion(arguments: argparse.Namespace, commands: dict[str, argparse.ArgumentParser]) -> int:
    script = _SHELLS[arguments.shell](commands)
    print(json.dumps({"shell": arguments.shell, "script": script}) if arguments.json else script, end="")
    return 0


def _positional(command: str) -> list[str]:
    """Names a command takes in the first place."""
    from .recipe import known_recipes
    from .release_plan import known_releases
    from .suite import known_suites

    known = {"train": known_recipes, "benchmark": known_suites, "push": known_releases}
    found = [str(name) for name in known[command]()] if command in known else []
    return ["bash", "fish", "zsh"] if command == "completion" else found


def _options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (action for action in parser._actions if action.option_strings)


def _bash(commands: dict[str, argparse.ArgumentParser]) -> str:
    values, options = [], []
    for name, parser in commands.items():
        words = [*_positional(name), *(word for action in _options(parser) for word in action.option_strings)]
        options.append(f'                {name}) words="{" ".join(words)}" ;;')
        for action in _options(parser):
            if action.choices:
                places = "|".join(f"{name}:{word}" for word in action.option_strings)
                values.append(f'            {places}) words="{" ".join(map(str, action.choices))}" only=only ;;')
    return _BASH.format(commands=" ".join(commands), values="\n".join(values), options="\n".join(options))


def _zsh(commands: dict[str, argparse.ArgumentParser]) -> str:
    return f"autoload -Uz compinit bashcompinit && compinit && bashcompinit\n{_bash(commands)}"


def _fish(commands: dict[str, argparse.ArgumentParser]) -> str:
    lines = [f"complete -c dualspace -n __fish_use_subcommand -f -a {' '.join(commands)}"]
    for name, parser in commands.items():
        here = f"complete -c dualspace -n '__fish_seen_subcommand_from {name}'"
        if names := _positional(name):
            lines.append(f"{here} -a '{' '.join(names)}'")
        for action in _options(parser):
            flags = " ".join(
                f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}" for word in action.option_strings
            )
            values = f" -x -a '{' '.join(map(str, action.choices))}'" if action.choices else ""
            said = (action.help or "").split("[")[0].strip().replace("'", "").replace("%%", "%")
            lines.append(f"{here} {flags}{values}{'' if values or action.nargs == 0 else ' -r'} -d '{said}'")
    return "\n".join([*lines, ""])


_SHELLS: dict[str, Callable[[dict[str, argparse.ArgumentParser]], str]] = {"bash": _bash, "fish": _fish, "zsh": _zsh}
