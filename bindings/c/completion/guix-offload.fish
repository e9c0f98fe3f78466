# SPDX-License-Identifier: GPL-3.0-or-later
# Completion of guix-offload for fish.

function __guix_offload_machines
    set -l words (commandline -opc)
    test (count $words) -gt 2; and __guix_offload_names $words[3]
end

function __guix_offload_names
    sed -n 's/.*(name "\([^"]*\)").*/\1/p' $argv[1] 2>/dev/null
end

complete -c guix-offload -l file -r -d 'Read this machine file'
complete -c guix-offload -l json -d 'Print JSON'
complete -c guix-offload -l verbose -d 'Say so as each machine answers'
complete -c guix-offload -l watch -d 'Show the status every 2 seconds'
complete -c guix-offload -l prometheus -d 'Print metrics for Prometheus'
complete -c guix-offload -l accept -x -d 'Confirm the host key with this fingerprint'
complete -c guix-offload -l key -r -d 'The private key to log in with'
complete -c guix-offload -l yes -d 'Confirm both signing keys'
complete -c guix-offload -s h -l help -d 'Show how to use the program'
complete -c guix-offload -s V -l version -d 'Show the version'
complete -c guix-offload -n __fish_use_subcommand -f -a test -d 'Connect to all machines, send an item and retrieve one'
complete -c guix-offload -n __fish_use_subcommand -f -a status -d 'Show how the machines are doing'
complete -c guix-offload -n __fish_use_subcommand -f -a check -d 'Show what is wrong in a machine file'
complete -c guix-offload -n __fish_use_subcommand -f -a drain -d 'Let a machine have no new builds'
complete -c guix-offload -n __fish_use_subcommand -f -a resume -d 'Let a machine have builds again'
complete -c guix-offload -n __fish_use_subcommand -f -a drained -d 'Show which machines are drained'
complete -c guix-offload -n __fish_use_subcommand -f -a explain -d 'Show what would become of a build'
complete -c guix-offload -n __fish_use_subcommand -f -a keeper -d 'Show what the keeper does, or have it end'
complete -c guix-offload -n __fish_use_subcommand -f -a scan -d 'Describe a machine for machines.scm'
complete -c guix-offload -n __fish_use_subcommand -f -a authorize -d 'Exchange signing keys with a machine'
complete -c guix-offload -n __fish_use_subcommand -f -a log -d 'Show the last builds of this host'
complete -c guix-offload -n __fish_use_subcommand -f -a stats -d 'Show what its builds add up to'
complete -c guix-offload -n __fish_use_subcommand -f -a offload -d 'Process build requests, as guix-daemon asks'
complete -c guix-offload -n '__fish_seen_subcommand_from keeper' -f -a 'status stop'
complete -c guix-offload -n '__fish_seen_subcommand_from authorize drain resume' -f \
    -a '(__guix_offload_names /etc/guix/machines.scm)'
complete -c guix-offload -n '__fish_seen_subcommand_from test status' -a '(__guix_offload_machines)'
