;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; The arguments that most commands take.
(define-module (guix scripts offload arguments)
  #:use-module (guix scripts offload endings)
  #:use-module (guix scripts offload help)
  #:use-module (ice-9 match)
  #:export (call-with-options))

(define (call-with-options arguments proc)
  "Call PROC with the words among ARGUMENTS, the file that --file=FILE names or #f, and whether --json is there."
  (let loop ((arguments arguments) (words '()) (file #f) (json? #f))
    (match arguments
      (()
       (proc (reverse words) file json?))
      (("--" . rest)
       (proc (append (reverse words) rest) file json?))
      (("--json" . rest)
       (loop rest words file #t))
      (((or "--help" "-h") . _)
       (show-help)
       #t)
      (((? (lambda (argument) (string-prefix? "--file=" argument)) option) . rest)
       (loop rest words (string-drop option (string-length "--file=")) json?))
      (((? (lambda (argument) (string-prefix? "-" argument)) option) . _)
       (misuse "unknown option '~a'; see 'guix offload --help'~%" option))
      ((word . rest)
       (loop rest (cons word words) file json?)))))
