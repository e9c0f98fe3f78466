;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Tests of (guix scripts offload) that need Guix and the library.  With the directory above first in the load path:
;; guile machine-file.scm
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

(define %key
  "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI")

(define (machines text)
  "The machines that a machine file of this TEXT returns, in which KEY is a host key."
  (call-with-output-file %file
    (lambda (port) (display (regexp-substitute/global #f "KEY" text 'pre %key 'post) port)))
  (build-machines %file))

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
  (match (machines "(list (build-machine (name \"m\") (systems '(\"x86_64-linux\")) (user \"u\") (host-key \"KEY\")))")
    ((m)
     (list (build-machine-name m) (build-machine-port m) (build-machine-systems m) (build-machine-user m)
           (build-machine-compression m) ((private build-machine-compression-level) m)
           (build-machine-daemon-socket m) (build-machine-overload-threshold m)
           ((private build-machine-parallel-builds) m) ((private build-machine-speed) m)
           (build-machine-features m)))))

(test-assert "the private key is one of the user's own"
  (match (machines "(list (build-machine (name \"m\") (systems '()) (user \"u\") (host-key \"KEY\")))")
    ((m)
     (string-prefix? (passwd:dir (getpwuid (geteuid))) (build-machine-private-key m)))))

(test-equal "a machine file is any program"
  '(("w1" 22 ("kvm")) ("w2" 22 ("kvm")) ("big" 2222 ()))
  (begin
    (setenv "GUIX_LAB_BIG" "big")
    (map (lambda (m) (list (build-machine-name m) (build-machine-port m) (build-machine-features m)))
         (machines "
(use-modules (srfi srfi-1) (ice-9 match))
(define (worker number)
  (build-machine (name (string-append \"w\" (number->string number)))
                 (systems '(\"x86_64-linux\")) (user \"u\") (host-key \"KEY\") (features '(\"kvm\"))))
(define workers (map worker (iota 2 1)))
(append workers
        (list (build-machine (inherit (first workers))
                             (name (getenv \"GUIX_LAB_BIG\")) (port 2222) (features '()))))"))))

(test-equal "the older field 'system' works"
  '("i686-linux")
  (build-machine-systems
   (first (machines "(list\n(build-machine (name \"m\") (system \"i686-linux\") (user \"u\") (host-key \"KEY\")))"))))

(test-assert "a malformed machine is left out and said, and the others are used"
  (every (lambda (form complaint)
           (says? (string-append "warning: /tmp/machines-[0-9]+.scm:2:[0-9]+: .*" complaint ".*\nhint: ") '("a")
                  (lambda ()
                    (map build-machine-name
                         (machines (string-append "(list (build-machine (name \"a\") (systems '(\"x86_64-linux\")) "
                                                  "(user \"u\") (host-key \"KEY\"))\n" form ")"))))))
         '("(build-machine (name \"m\") (user \"u\") (host-key \"KEY\"))"
           "(build-machine (name \"m\") (systems '(\"x86_64-linux\")) (user \"u\") (host-key \"\"))"
           "(build-machine (name \"m\") (colour \"red\") (user \"u\") (host-key \"KEY\"))"
           "(build-machine (name \"root@m\") (systems '(\"x86_64-linux\")) (user \"u\") (host-key \"KEY\"))")
         '("machine 'm': field 'systems' is missing"
           "machine 'm', field 'host-key': "
           "machine 'm', field 'colour': there is no such field"
           "machine 'root@m', field 'name': expected a host name or an address without an account")))

(test-equal "modules of Guix, and records of its type, are understood"
  '("m" "n")
  (map build-machine-name
       (machines "(use-modules (guix utils) (guix records))
(define-record-type* <build-machine> other make-other other?
  (name other-name) (systems other-systems) (user other-user) (host-key other-host-key))
(list (build-machine (name \"m\") (systems (list (%current-system))) (user \"u\") (host-key \"KEY\"))
      (other (name \"n\") (systems (list (%current-system))) (user \"u\") (host-key \"KEY\")))")))

(test-equal "a file that does not exist has no machines"
  '()
  (build-machines "/nonexistent/machines.scm"))

(test-assert "a file that cannot be read is an error"
  (says? "error: /etc: the machine file is a directory" '(exit 1)
         (lambda () (build-machines "/etc"))))

(test-assert "what returns no list of machines is ignored, with a warning"
  (and (says? "warning: .*: the file must return a list of build machines, but this last form returns 42\nhint: " '()
              (lambda () (machines "42")))
       (says? "warning: .*: the file must return a list of build machines, .* element 1 is 42\nhint: " '()
              (lambda () (machines "(list 42)")))))

(test-assert "what raises is an error"
  (says? "error: /tmp/machines-[0-9]+.scm:1:0: this is the matter" '(exit 1)
         (lambda () (machines "(error \"this is\" 'the 'matter)"))))

(test-assert "what opens a file that is not there is an error, not a missing machine file"
  (says? "error: /tmp/machines-[0-9]+.scm:1:0: .*No such file" '(exit 1)
         (lambda () (machines "(open-input-file \"/nonexistent/file\")"))))

(test-assert "what is no Scheme is an error"
  (says? "error: /tmp/machines-[0-9]+.scm:1:[0-9]+: (unexpected )?end of (input|file)" '(exit 1)
         (lambda () (machines "(list"))))

(test-assert "what a file prints does not go to the daemon"
  (string-null? (with-output-to-string
                  (lambda () (machines "(display \"# accept\") '()")))))

(test-equal "machines are matched by system and features"
  '(#t #f #f #t)
  (match (machines "(list (build-machine (name \"m\") (systems '(\"a\" \"b\")) (user \"u\") (host-key \"KEY\")
                                        (features '(\"kvm\" \"big\"))))")
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
             ("'.*scm' has no build machine" ,%file)
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
