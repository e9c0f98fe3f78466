;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Tests of (guix-offload) and (guix scripts offload) on a host with Guix that has one build machine, listed in
;; /etc/guix/machines.scm, and may offload to it.  With the directory above first in the load path: guile verbs.scm
(load "runner.scm")
(use-modules (guix-offload)
             (guix derivations)
             (guix diagnostics)
             (guix store)
             (ice-9 match)
             (rnrs bytevectors)
             (srfi srfi-1)
             (srfi srfi-11)
             (srfi srfi-34))

(define %fields
  (list offload-machine-name offload-machine-port offload-machine-user offload-machine-private-key
        offload-machine-host-key offload-machine-compression offload-machine-compression-level
        offload-machine-daemon-socket offload-machine-parallel-builds offload-machine-speed
        offload-machine-overload-threshold offload-machine-systems offload-machine-features))

(define (fields machine)
  (map (lambda (field) (field machine)) %fields))

(define (same-machines? file)
  "Is what Guile makes of FILE what the library, and so the C program, makes of it?"
  (let ((ours (map fields ((@@ (guix scripts offload) machine-handles) file)))
        (theirs (map fields (offload-load-machines file))))
    (or (and (pair? ours) (equal? ours theirs))
        (begin
          (format #t "    Guile:   ~s~%    library: ~s~%" ours theirs)
          #f))))

(define %machine-file "/etc/guix/machines.scm")
(define %key (offload-machine-host-key (first (offload-load-machines %machine-file))))

(define (same-machines-in? text)
  (let ((file "/tmp/same-machines.scm"))
    (call-with-output-file file
      (lambda (port)
        (format port "(define key ~s)~%~a" %key text)))
    (same-machines? file)))

(define store (open-connection))
(define %random-state (random-state-from-platform))

(define %busybox
  ;; It goes by the name of its file, which must be "busybox".
  (let ((directory (string-append "/tmp/verbs-" (number->string (getpid)))))
    (mkdir directory)
    (copy-file "/bin/busybox" (string-append directory "/busybox"))
    (chmod (string-append directory "/busybox") #o555)
    (add-to-store store "busybox" #t "sha256" directory)))

(define (derivation-of script)
  "A derivation that runs SCRIPT, which is never the same."
  (let ((nonce (number->string (random (expt 10 18) %random-state))))
    (derivation store "verbs" (string-append %busybox "/busybox")
                (list "sh" "-c" (string-append script "\n: " nonce))
                #:sources (list %busybox))))

(define* (request-for drv #:key (outputs (list (derivation->output-path drv))) cores rounds keep-failed? (verbosity 0))
  (let ((file (derivation-file-name drv)))
    (make-offload-request "x86_64-linux" file
                          #:inputs (requisites store (list file))
                          #:outputs outputs
                          #:timeout 60
                          #:cores cores #:rounds rounds #:keep-failed? keep-failed? #:verbosity verbosity
                          #:substitutes? #f)))

(define engine (make-offload-engine))
(define machines (offload-load-machines %machine-file))

(define-syntax-rule (failure exp ...)
  (guard (c ((guix-offload-error? c) c))
    exp ...
    #f))

(test-begin "verbs")

(test-assert "the command says which implementation it is"
  (string-prefix? (string-append "guix offload: libguix_offload " (offload-version) ", in Guix ")
                  (with-output-to-string
                    (lambda ()
                      ((@ (guix scripts offload) guix-offload) "--version")))))

(test-assert "the host's machine file gives the same machines in Guile and in C"
  (same-machines? %machine-file))

(test-assert "a program gives the same machines in Guile and in C"
  (same-machines-in? "
(use-modules (srfi srfi-1))
(define (worker number)
  (build-machine (name (string-append \"w\" (number->string number))) (port (+ 2000 number))
                 (systems (list \"x86_64-linux\" \"i686-linux\")) (user (or (getenv \"NOBODY\") \"me\"))
                 (host-key key)))
(define workers (map worker (iota 3)))
(cons (build-machine (inherit (first workers)) (name \"big\") (speed 5/2) (overload-threshold #f) (parallel-builds 8)
                     (features '(\"kvm\")) (private-key \"/k\") (compression \"none\") (compression-level 0)
                     (daemon-socket \"/s\"))
      workers)"))

(test-assert "the older field 'system' gives the same machines"
  (same-machines-in? "(list (build-machine (name \"m\") (system \"i686-linux\") (user \"u\") (host-key key)))"))

(test-equal "a field with a wrong value is said in its place"
  '(() () ())
  (map (lambda (fields complaint)
         (let ((file "/tmp/wrong-machines.scm") (result #f))
           (call-with-output-file file
             (lambda (port)
               (format port "(list\n  (build-machine (systems '()) (user \"u\") ~a))" fields)))
           (let ((said (call-with-output-string
                         (lambda (port)
                           (parameterize ((guix-warning-port port) (current-error-port port))
                             (set! result ((@@ (guix scripts offload) machine-handles) file)))))))
             (if (and (string-contains said "warning: /tmp/wrong-machines.scm:2:") (string-contains said complaint))
                 result
                 said))))
       (list "(name 42) (host-key \"k\")"
             (format #f "(name \"m\") (host-key ~s) (port 0)" %key)
             "(name \"m\") (host-key \"k\")")
       '("field 'name': expected a string" "field 'port': expected an integer from 1 to 65535, got 0"
         "hint: copy the line from /etc/ssh")))

(test-assert "a machine is chosen, sent to, builds, and its output comes back"
  (let* ((drv (derivation-of "echo from the builder; echo hello > $out"))
         (request (request-for drv))
         (log '())
         (moved '()))
    (define (progress bytes total)
      (set! moved (cons bytes moved))
      #t)
    (let-values (((reply lease why) (offload-choose engine machines request)))
      (let* ((connection (offload-lease-connection lease))
             (sent (offload-send connection request #:progress progress)))
        (offload-build connection request
                       #:log (lambda (piece)
                               (set! log (cons (utf8->string piece) log))))
        (offload-retrieve connection request #:progress progress)
        (offload-free! lease)
        (and (eq? reply 'accept)
             (member (derivation-file-name drv) sent)
             (pair? moved)
             (string-contains (string-concatenate-reverse log) "from the builder")
             (valid-path? store (derivation->output-path drv)))))))

(test-equal "a build that fails is a condition that says so"
  '(build-failed 100)
  (let* ((request (request-for (derivation-of "exit 3")))
         (connection (offload-connect engine (first machines))))
    (offload-send connection request)
    (let ((c (failure (offload-build connection request))))
      (list (guix-offload-error-code c) (guix-offload-error-exit-status c)))))

(test-equal "a function that returns #f cancels"
  'cancelled
  (let* ((request (request-for (derivation-of "echo now; while :; do :; done")))
         (connection (offload-connect engine (first machines))))
    (offload-send connection request)
    (guix-offload-error-code (failure (offload-build connection request #:log (const #f))))))

(test-equal "what a function raises comes out"
  '(my-exception 1 2)
  (let* ((request (request-for (derivation-of "echo now")))
         (connection (offload-connect engine (first machines))))
    (offload-send connection request)
    (catch 'my-exception
      (lambda ()
        (offload-build connection request #:log (lambda (piece) (throw 'my-exception 1 2)))
        #f)
      list)))

(test-equal "a job tells what happens, and makes the output valid"
  '(#t (chosen sending building retrieving done) #t #t)
  (let* ((drv (derivation-of "echo hello > $out")))
    (let*-values (((reply job) (offload-start-job engine machines (request-for drv)))
                  ((over?) (offload-job-wait job 60000)))
      (let ((kinds (let loop ((kinds '()))
                     (match (offload-job-next-event job)
                       (#f (reverse kinds))
                       (event (loop (cons (offload-event-kind event) kinds)))))))
        (list over?
              (remove (lambda (kind) (memq kind '(transferred log))) kinds)
              (offload-job-result job)
              (valid-path? store (derivation->output-path drv)))))))

(define (failure-of-job request)
  "Why REQUEST cannot be built: a symbol and a hint; #f if it can."
  (let-values (((reply job) (offload-start-job engine machines request)))
    (offload-job-wait job 60000)
    (let ((c (failure (offload-job-result job))))
      (and c (list (guix-offload-error-code c) (guix-offload-error-hint c))))))

(define %another-each-time
  "while read -r line; do echo $line; done < /proc/sys/kernel/random/uuid > $out")

(test-equal "rounds must be the same each time"
  '(#f (build-failed #f) #f)
  (map (lambda (script rounds)
         (failure-of-job (request-for (derivation-of script) #:rounds rounds)))
       (list %another-each-time %another-each-time "echo the same > $out")
       '(1 3 3)))

(test-equal "what the machine has already is built again, and counts for no round"
  '(build-failed #f)
  (let ((drv (derivation-of %another-each-time)))
    (let ((connection (offload-connect engine (first machines))))
      (offload-send connection (request-for drv))
      (offload-build connection (request-for drv)))
    (failure-of-job (request-for drv #:rounds 2))))

(test-assert "the builder gets the cores that were asked for, and the next one those of its daemon"
  (let ((cores (lambda (number)
                 (let ((drv (derivation-of "echo $NIX_BUILD_CORES > $out")))
                   (and (not (failure-of-job (request-for drv #:cores number)))
                        (call-with-input-file (derivation->output-path drv) read))))))
    (match (list (cores #f) (cores 7) (cores #f))
      ((before 7 after) (equal? before after)))))

(test-assert "a failed build's tree is kept, and said where"
  (match (failure-of-job (request-for (derivation-of "exit 3") #:keep-failed? #t))
    (('build-failed hint)
     (string-contains hint "the tree of the failed build is on 'w1': /tmp/guix-build-"))))

(test-equal "the machine passes the test, and says how it is"
  '(0 "ready" #t "1.5.0" 0)
  (let ((tested (offload-test-machines engine machines))
        (status (first (offload-report->list (offload-machines-status engine machines)))))
    (list (offload-report-failures tested) (offload-machine-report-state status)
          (> (offload-machine-report-free-space status) 0)
          (offload-machine-report-guix-version status) (offload-machine-report-slots-taken status))))

(test-assert "a slot that is taken is counted"
  (let ((request (make-offload-request "x86_64-linux" (derivation-file-name (derivation-of "exit 0")))))
    (let-values (((reply lease why) (offload-choose engine machines request)))
      (let ((status (first (offload-report->list (offload-machines-status engine machines)))))
        (offload-free! lease)
        (= 1 (offload-machine-report-slots-taken status))))))

(finish)
