# SPDX-License-Identifier: GPL-3.0-or-later
# Completion of guix-offload for bash.

_guix_offload()
{
    local commands='test status keeper scan authorize log stats offload'
    local options='--json --verbose --watch --prometheus --accept --key --yes --help --version'
    local current=${COMP_WORDS[COMP_CWORD]} file command words
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
        scan | authorize | log | stats) ;;
        keeper)
            mapfile -t COMPREPLY < <(compgen -W 'status stop' -- "$current")
            ;;
        *)
            # A machine file, then the names in it.
            if [ "${#words[@]}" = 1 ]; then
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -f -- "$current")
            else
                file=${words[1]}
                local names
                names=$(sed -n 's/.*(name "\([^"]*\)").*/\1/p' "$file" 2>/dev/null)
                mapfile -t COMPREPLY < <(compgen -W "$names" -- "$current")
            fi
            ;;
    esac
}
complete -F _guix_offload guix-offload
