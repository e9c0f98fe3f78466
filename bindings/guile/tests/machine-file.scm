;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Tests of (guix scripts offload) that need Guix, but not the library, so that they run wherever Guix does.  With the
;; directory above first in the load path: guile machine-file.scm
(load "runner.scm")
(use-modules (guix scripts offload)
             (guix diagnostics)
             (guix ui)
             (ice-9 match)
             (ice-9 regex)
             (srfi srfi-1))

(define-syntax-rule (private name) (@@ (guix scripts offload) name))
(define build-machines (private build-machines))
(define machine-matches? (private machine-matches?))

(define %file (string-append "/tmp/machines-" (number->string (getpid)) ".scm"))

(define (machines text . args)
  "The machines that a machine file of this TEXT returns."
  (call-with-output-file %file
    (lambda (port) (display text port)))
  (apply build-machines %file args))

(define (says thunk)
  "What THUNK says on standard error, and the status that it exits with, or what it returns."
  (let* ((result #f)
         (text (call-with-output-string
                 (lambda (port)
                   (parameterize ((guix-warning-port port)
                                  (current-error-port port))
                     (set! result (catch 'quit thunk (lambda (key . status) (cons 'exit status)))))))))
    (list text result)))

(define (says? pattern result thunk)
  (match (says thunk)
    ((text actual)
     (or (and (string-match pattern text) (equal? result actual))
         (begin
           (format #t "    said: ~s~%    gave: ~s~%" text actual)
           #f)))))

(test-begin "machine-file")

(test-assert "this is our module"
  (not (module-variable (resolve-module '(guix scripts offload)) 'transfer-and-offload)))

(test-equal "fields that are left out have Guix's defaults"
  '("m" 22 ("x86_64-linux") "u" "zlib@openssh.com,zlib" 3 "/var/guix/daemon-socket/socket" 0.8 1 1.0 ())
  (match (machines "(list (build-machine (name \"m\") (systems '(\"x86_64-linux\")) (user \"u\") (host-key \"k\")))")
    ((m)
     (list (build-machine-name m) (build-machine-port m) (build-machine-systems m) (build-machine-user m)
           (build-machine-compression m) ((private build-machine-compression-level) m)
           (build-machine-daemon-socket m) (build-machine-overload-threshold m)
           ((private build-machine-parallel-builds) m) ((private build-machine-speed) m)
           (build-machine-features m)))))

(test-assert "the private key is one of the user's own"
  (match (machines "(list (build-machine (name \"m\") (systems '()) (user \"u\") (host-key \"k\")))")
    ((m)
     (string-prefix? (passwd:dir (getpwuid (geteuid))) (build-machine-private-key m)))))

(test-equal "a machine file is any program"
  '(("w1" 22 ("kvm")) ("w2" 22 ("kvm")) ("big" 2222 ()))
  (begin
    (setenv "LAB_BIG" "big")
    (map (lambda (m) (list (build-machine-name m) (build-machine-port m) (build-machine-features m)))
         (machines "
(use-modules (srfi srfi-1) (ice-9 match))
(define (worker number)
  (build-machine (name (string-append \"w\" (number->string number)))
                 (systems '(\"x86_64-linux\")) (user \"u\") (host-key \"k\") (features '(\"kvm\"))))
(define workers (map worker (iota 2 1)))
(append workers
        (list (build-machine (inherit (first workers))
                             (name (getenv \"LAB_BIG\")) (port 2222) (features '()))))"))))

(test-assert "the older field 'system' works, with a warning"
  (says? "machines-[0-9]+.scm:2:.*warning: The 'system' field is deprecated" '("i686-linux")
         (lambda ()
           (build-machine-systems
            (first (machines "(list\n(build-machine (name \"m\") (system \"i686-linux\") (user \"u\") (host-key \"k\")))"))))))

(test-assert "a machine of no system is an error"
  (says? "has no value for its field 'systems'" '(exit 1)
         (lambda ()
           (build-machine-systems
            (first (machines "(list (build-machine (name \"m\") (user \"u\") (host-key \"k\")))"))))))

(test-equal "a file that does not exist has no machines"
  '()
  (build-machines "/nonexistent/machines.scm"))

(test-assert "a file that cannot be read is an error"
  (says? "failed to open machine file '/etc'" '(exit 1)
         (lambda () (build-machines "/etc"))))

(test-assert "what returns no list of machines is ignored, with a warning"
  (and (says? "did not return a list of build machines; ignoring it" '()
              (lambda () (machines "42")))
       (says? "did not return a list of build machines; ignoring it" '()
              (lambda () (machines "(list 42)")))))

(test-assert "what raises is an error"
  (says? "failed to load machine file '/tmp/machines-[0-9]+.scm': .*the matter" '(exit 1)
         (lambda () (machines "(error \"this is\" 'the 'matter)"))))

(test-assert "what opens a file that is not there is an error, not a missing machine file"
  (says? "failed to open machine file '/tmp/machines-[0-9]+.scm': .*No such file" '(exit 1)
         (lambda () (machines "(open-input-file \"/nonexistent/file\")"))))

(test-assert "a field that does not exist is an error in its place"
  (says? "machines-[0-9]+.scm:2:1: .*extraneous field" '(exit 1)
         (lambda ()
           (machines "(list\n (build-machine (name \"m\") (colour \"red\") (user \"u\") (host-key \"k\")))"))))

(test-assert "what is no Scheme is an error"
  (says? "failed to load machine file '/tmp/machines-[0-9]+.scm': " '(exit 1)
         (lambda () (machines "(list"))))

(test-assert "what never ends is an error"
  (says? "failed to load machine file '/tmp/machines-[0-9]+.scm': it takes longer than 1 seconds" '(exit 1)
         (lambda () (machines "(let loop () (loop))" #:time-limit 1))))

(test-assert "what sleeps for ever is an error"
  (says? "it takes longer than 1 seconds" '(exit 1)
         (lambda () (machines "(let loop () (sleep 1000) (loop))" #:time-limit 1))))

(test-assert "what a file prints does not go to the daemon"
  (match (let ((output #f))
           (list (says (lambda ()
                         (set! output (with-output-to-string
                                        (lambda () (machines "(display \"# accept\") '()"))))
                         output))
                 output))
    (((said _) output)
     (and (string=? "# accept" said) (string-null? output)))))

(test-equal "machines are matched by system and features"
  '(#t #f #f #t)
  (match (machines "(list (build-machine (name \"m\") (systems '(\"a\" \"b\")) (user \"u\") (host-key \"k\") (features '(\"kvm\" \"big\"))))")
    ((m)
     (map (lambda (requirements) (->bool (machine-matches? m requirements)))
          (list (build-requirements (system "b"))
                (build-requirements (system "c"))
                (build-requirements (system "a") (features '("kvm" "cuda")))
                (build-requirements (system "a") (features '("big" "kvm"))))))))

(test-assert "the command's usage is that of Guix"
  (string-prefix? "Usage: guix offload SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT\n"
                  (with-output-to-string
                    (lambda ()
                      (catch 'quit (lambda () (guix-offload "--help")) (const #t))))))

(test-assert "what the command line selects must be there"
  (let ((none (string-append %file ".none")))
    (call-with-output-file %file
      (lambda (port) (display "(list)" port)))
    (every (match-lambda
             ((complaint . arguments)
              (every (lambda (command)
                       (says? complaint '(exit 2) (lambda () (apply guix-offload command arguments))))
                     '("test" "status"))))
           `(("unknown option '--bogus'" ,%file "--bogus")
             ("unknown option '-j'" "-j")
             ("machine file '.*none': No such file" ,none)
             ("'.*scm' has no usable build machine" ,%file)
             ("no build machine of '.*scm' matches 'x'" ,%file "x")
             ("'\\[' is not a regular expression" ,%file "[")
             ("machine file '--json': No such file" "--" "--json")))))

(test-assert "other arguments are refused"
  (says? "invalid arguments: \"x\"" '(exit 2)
         (lambda () (guix-offload "x"))))

(test-assert "arguments that are too many, and numbers that are none, are refused"
  (and (says? "wrong number of arguments" '(exit 2)
              (lambda () (guix-offload "test" "a" "b" "c" "d")))
       (says? "invalid number: ten" '(exit 2)
              (lambda () (guix-offload "x86_64-linux" "ten" "1" "10")))))

(false-if-exception (delete-file %file))
(finish)
