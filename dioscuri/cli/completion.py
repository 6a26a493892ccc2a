"""`dioscuri completion`: shell completion of `dioscuri`, generated from the commands' parsers."""

from collections.abc import Sequence

from dioscuri.cli.main import COMMANDS, command_parser
from dioscuri.cli.parsers import PROGRAM, Parser

_USAGE = "bash|zsh"
_DESCRIPTION = """\
Print a completion script for the shell: commands, options, and file names for everything else."""
_EXAMPLE = 'eval "$(dioscuri completion bash)"        # in ~/.bashrc; for zsh in ~/.zshrc'

_BASH = """\
_{program}() {{
    local options
    case "$COMP_CWORD ${{COMP_WORDS[1]}}" in
    1\\ *) options="{commands} --help --version" ;;
{cases}
    esac
    COMPREPLY=($(compgen -W "$options" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _{program} {program}
"""


def make_parser() -> Parser:
    """The command's parser."""
    parser = Parser("completion", _USAGE, _DESCRIPTION, _EXAMPLE)
    parser.add_argument("shell", choices=("bash", "zsh"))
    return parser


def main(words: Sequence[str]) -> None:
    """Print the script for the shell that the words name."""
    shell = make_parser().parse_args(list(words)).shell
    cases = "\n".join(
        f'    *\\ {command}) options="{" ".join(command_parser(command).options)}" ;;' for command in COMMANDS
    )
    if shell == "zsh":
        print("autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit")
    print(_BASH.format(program=PROGRAM, cases=cases, commands=" ".join(COMMANDS)), end="")
