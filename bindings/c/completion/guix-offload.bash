# SPDX-License-Identifier: GPL-3.0-or-later
# Completion of guix-offload for bash.

# The names of the machines in a machine file.
_guix_offload_machines()
{
    sed -n 's/.*(name "\([^"]*\)").*/\1/p' "$1" 2>/dev/null
}

_guix_offload()
{
    local commands='test status check scan authorize drain resume drained explain log stats keeper offload'
    local options='--file --json --verbose --watch --prometheus --accept --key --yes --help --version'
    local current=${COMP_WORDS[COMP_CWORD]} command words
    words=("${COMP_WORDS[@]:1:COMP_CWORD-1}")
    [ "${words[0]}" != offload ] || words=("${words[@]:1}")
    command=${words[0]}
    COMPREPLY=()
    case $current in
        -*)
            mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
            return
            ;;
    esac
    case $command in
        '')
            mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$current")
            ;;
        scan | log | stats) ;;
        keeper)
            mapfile -t COMPREPLY < <(compgen -W 'status stop' -- "$current")
            ;;
        authorize | drain | resume)
            mapfile -t COMPREPLY < <(compgen -W "$(_guix_offload_machines /etc/guix/machines.scm)" -- "$current")
            ;;
        drained) ;;
        explain)
            mapfile -t COMPREPLY < <(compgen -W 'x86_64-linux i686-linux aarch64-linux armhf-linux' -- "$current")
            ;;
        *)
            # A machine file, then the names in it.
            if [ "${#words[@]}" = 1 ]; then
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -f -- "$current")
            else
                mapfile -t COMPREPLY < <(compgen -W "$(_guix_offload_machines "${words[1]}")" -- "$current")
            fi
            ;;
    esac
}
complete -F _guix_offload guix-offload
