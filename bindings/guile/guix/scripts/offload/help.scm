;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; What 'guix offload --help' and '--version' say.
(define-module (guix scripts offload help)
  #:use-module (guix config)
  #:use-module (guix ui)
  #:use-module (guix-offload)
  #:use-module (guix scripts offload machine-file)
  #:export (show-help
            show-version))

(define (show-help)
  (leave-on-EPIPE
   (format #t (G_ "Usage: guix offload SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT
Process build offload requests written on the standard input, possibly
offloading builds to the machines listed in '~a'.~%")
           %machine-file)
   (display (G_ "
This is what guix-daemon runs.  For people there are:

  guix offload test [FILE [REGEXP]] [--json] [--verbose]
      test the machines of FILE whose names match REGEXP; on a terminal, or with
      --verbose, say so as each machine answers
  guix offload status [FILE [REGEXP]] [--json] [--verbose] [--watch]
      show how they are doing; with --watch, again every 2 seconds, until
      interrupted
  guix offload scan HOST[:PORT] [USER] [--accept=SHA256:...] [--key=FILE] [--json]
      describe a machine for machines.scm; log in only if ssh knows its host key,
      or --accept names it
  guix offload authorize MACHINE [--file=FILE] [--yes] [--json]
      have this host and MACHINE accept what the other one signs, once you agree,
      and test it
  guix offload log [COUNT] [--json]
      show the last COUNT builds of this host that are over, 20 by default;
      0: all that are recorded
  guix offload stats [--json | --prometheus]
      show what they add up to, machine by machine
  guix offload check [FILE] [--json]
      show what is wrong in FILE, and whether guix-daemon uses this library
  guix offload drain MACHINE [--file=FILE] [--json]
      let MACHINE of FILE have no new builds
  guix offload resume MACHINE [--file=FILE] [--json]
      let it have builds again
  guix offload drained [--file=FILE] [--json]
      show which machines are drained
  guix offload explain DERIVATION | SYSTEM [FEATURE...] [--file=FILE] [--json]
      show what would become of a build now, and why

The exit status is 1 if a machine cannot be used, 2 if the command line or FILE
is wrong, or selects no machine.\n"))))

(define (show-version)
  (leave-on-EPIPE
   (format #t "guix offload: libguix_offload ~a, in Guix ~a
Copyright (C) 2026 the libguix_offload authors
License GPLv3+: GNU GPL version 3 or later <http://gnu.org/licenses/gpl.html>
This is free software: you are free to change and redistribute it.
There is NO WARRANTY, to the extent permitted by law.\n"
           (offload-version) %guix-version)))
