#compdef guix-offload
# SPDX-License-Identifier: GPL-3.0-or-later
# Completion of guix-offload for zsh.

local -a own_commands=(
    'test:connect to all machines, send an item and retrieve one'
    'status:show how the machines are doing'
    'check:show what is wrong in a machine file, without connecting'
    'drain:let a machine have no new builds'
    'resume:let a machine have builds again'
    'drained:show which machines are drained'
    'explain:show what would become of a build'
    'keeper:show what the keeper does, or have it end'
    'scan:describe a machine for machines.scm'
    'authorize:exchange signing keys with a machine'
    'log:show the last builds of this host'
    'stats:show what its builds add up to'
    'offload:process build requests, as guix-daemon asks'
)
local -a own_options=(
    '--file=[read this machine file]:machine file:_files'
    '--json[print JSON]'
    '--verbose[say so as each machine answers]'
    '--watch[show the status every 2 seconds]'
    '--prometheus[print metrics for Prometheus]'
    '--yes[confirm both signing keys]'
    '--accept=[confirm the host key with this fingerprint]:fingerprint'
    '--key=[the private key to log in with]:private key:_files'
    '(- *)'{-h,--help}'[show how to use the program]'
    '(- *)'{-V,--version}'[show the version]'
)

_guix_offload_machines()
{
    local file=${words[2]:-/dev/null}
    [[ ${words[1]} != (authorize|drain|resume) ]] || file=/etc/guix/machines.scm
    local -a names=(${(f)"$(sed -n 's/.*(name "\([^"]*\)").*/\1/p' $file 2>/dev/null)"})
    compadd -a names
}

_guix_offload()
{
    local state
    _arguments -C $own_options '1:command:->command' '*::argument:->argument'
    case $state in
        command)
            _describe command own_commands
            ;;
        argument)
            case ${words[1]} in
                scan | log | stats) _arguments $own_options ;;
                keeper) _arguments $own_options '1:command:(status stop)' ;;
                authorize | drain | resume) _arguments $own_options '1:machine:_guix_offload_machines' ;;
                check) _arguments $own_options '1:machine file:_files' ;;
                explain) _arguments $own_options '1:derivation or system:' '*:feature:' ;;
                drained) _arguments $own_options ;;
                *) _arguments $own_options '1:machine file:_files' '2:machine:_guix_offload_machines' ;;
            esac
            ;;
    esac
}

_guix_offload "$@"
