;;; SPDX-License-Identifier: GPL-3.0-or-later
;;; Builds for tests and measurements: derivations with real inputs and outputs, made by busybox alone.
;;;
;;;   guix repl builds.scm -- MODE [KEY=VALUE]...
;;;
;;; MODE   plain    COUNT independent builds, each of a file `data` and a reference to busybox
;;;        chain    a build, and a second one that reads the first one's output
;;;        outputs  one build with the outputs "out", "doc" and "debug"; "out" refers to "doc"
;;;        holes    one build of a file of KIB KiB that is zeros, but for a byte every 64 KiB
;;;        tree     symlinks, an executable, an empty directory and file, names with spaces and UTF-8
;;;        fail     a build that says something and exits with status 3
;;;        stamp    COUNT independent builds of SECONDS, after so many TURNS of a loop that uses a processor, each of a
;;;                 file that says from when to when it ran, by /proc/uptime
;;;        another  COUNT independent builds, each of a file that differs each time; they say how many cores they have
;;;        sleep    a build of one file that takes SECONDS, silently, or with chatty=1 a line every second
;;;        graph    COUNT builds, each of up to KIB; by SEED, they read and refer to up to four of the twenty before
;;;        layers   layers of so many builds, by LAYERS (1,1), each of KIB, and each reads all of the layer before it
;;;        work     COUNT independent builds that log LOG-MIB MiB without a newline, take SECONDS, and make a file, or a
;;;                 directory of FILES files
;;; KEY    count=1 kib=1 (size of each output) input-kib=0 (size of a shared input) input-count=1 (number of those)
;;;        input-text=0 (1: it is text) input-signed=0 (1: it is of a kind that is not made again on a machine, if it is
;;;        large, but imported)
;;;        inputs=0 inputs-kib=0 (number and size of small inputs; size 0: a line)
;;;        built-input=0 (1: an input of BUILT-KIB that is built here first) built-kib= (by default KIB)
;;;        seed=1 log-mib=0 files=1 fill=urandom (or zero) seconds=1 turns=0 chatty=0 jobs=0 (local builds allowed)
;;;        held-mib=0 (memory that a stamp holds while it takes SECONDS)
;;;        timeout= silent= (limits in seconds)
;;;        print=0 (1: build nothing, but print what a hook would be told: `derivation SYSTEM FILE`, `input ITEM`...,
;;;        `output ITEM`..., `end` for each build)
;;;        features= (required, comma-separated) picky= (the same, of the first build alone)
;;;        gather=0 (1: ask for one build alone, which needs all the others)
;;;        nonce= (same nonce, same derivations; by default always new ones)
;;;        offload=1 (0: the daemon asks no build hook)
;;;
;;; Prints `ok NAME OUTPUT...` or `failed NAME` for each build, `error MESSAGE` when the daemon reported one, and last
;;; `total BUILDS SECONDS`, the seconds of the build request alone. Exits with 1 when a build failed. The build log and
;;; the hook's messages go to standard error.
(use-modules (guix store) (guix derivations) ((guix utils) #:select (%current-system))
             ((guix build utils) #:select (delete-file-recursively)) ((guix build syscalls) #:select (mkdtemp!))
             (ice-9 match) ((ice-9 textual-ports) #:select (get-string-all))
             (srfi srfi-1) (srfi srfi-34) (srfi srfi-71))

(define-values (mode settings)
  (match (cdr (command-line))
    (((? (negate (lambda (word) (string-index word #\=))) mode) settings ...)
     (values (string->symbol mode)
             (map (lambda (setting)
                    (match (string-index setting #\=)
                      (#f (error "not KEY=VALUE" setting))
                      (i (cons (string-take setting i) (string-drop setting (1+ i))))))
                  settings)))
    (_ (error "usage: guix repl builds.scm -- MODE [KEY=VALUE]..."))))

(define (setting key default) (or (assoc-ref settings key) default))
(define (number key default) (string->number (setting key (number->string default))))
(define (now) (match (gettimeofday) ((s . us) (+ s (/ us 1e6)))))
(define nonce (setting "nonce" (format #f "~a-~a" (getpid) (now))))

(define (call-with-scratch-name proc)
  (let* ((directory (mkdtemp! "/tmp/builds-XXXXXX"))
         (result    (proc (string-append directory "/it"))))
    (delete-file-recursively directory)
    result))

;; Prints text without end: the source code of Guix, after a line that makes each text another one.
(define source-code
  (string-append "echo " nonce "; while find " (dirname (search-path %load-path "guix/store.scm"))
                 "/../gnu -name '*.scm' | LC_ALL=C sort | xargs cat; do :; done"))

(define (random-file store name kib)
  (call-with-scratch-name
    (lambda (file)
      (define (fill command)
        (system (string-append "(" command ") 2>/dev/null | head -c " (number->string kib) "K >" file)))
      (cond ((string=? (setting "input-signed" "0") "1")
             (fill "base64 /dev/urandom")
             (add-text-to-store store name (call-with-input-file file get-string-all)))
            (else
             (fill (if (string=? (setting "input-text" "0") "1") source-code "cat /dev/urandom"))
             (add-to-store store name #t "sha256" file))))))

(define (set-options store)
  (apply set-build-options store
         #:use-substitutes? #f #:offload? (string=? (setting "offload" "1") "1") #:keep-going? #t
         #:max-build-jobs (number "jobs" 0)
         (append-map (match-lambda
                       ((key option) (match (assoc-ref settings key)
                                       (#f '())
                                       (value (list option (string->number value))))))
                     '(("timeout" #:timeout) ("silent" #:max-silent-time)))))

(define (all-builds store)
  ;; In a directory of its own: busybox goes by the name of its file, which must be "busybox".
  (define busybox-directory
    (call-with-scratch-name
      (lambda (directory)
        (mkdir directory)
        (copy-file "/bin/busybox" (string-append directory "/busybox"))
        (add-to-store store "busybox" #t "sha256" directory))))
  (define busybox (string-append busybox-directory "/busybox"))
  ;; The output of a build that is done before those that are asked for, by this host.
  (define (built-here)
    (let* ((kib (setting "built-kib" (setting "kib" "1")))
           (drv (derivation store "built-input" busybox
                            (list "sh" "-c"
                                  (string-append busybox " dd if=/dev/$fill of=$out bs=1048576 count=$((kib / 1024))"))
                            #:env-vars `(("nonce" . ,nonce) ("kib" . ,kib) ("fill" . ,(setting "fill" "urandom")))
                             #:sources (list busybox-directory))))
      (set-build-options store #:use-substitutes? #f #:offload? #f #:max-build-jobs 1)
      (build-derivations store (list drv))
      (set-options store)
      (derivation->output-path drv)))

  (define inputs
    (append (match (number "input-kib" 0)
              (0 '())
              (kib (map (lambda _ (random-file store "input" kib)) (iota (number "input-count" 1)))))
            (map (lambda (i)
                   (add-text-to-store store (format #f "small-~a" i)
                                      (string-append (format #f "~a ~a~%" nonce i)
                                                     (make-string (* 1024 (number "inputs-kib" 0)) #\x))))
                 (iota (number "inputs" 0)))
            (if (string=? (setting "built-input" "0") "1") (list (built-here)) '())))

  ;; No variable of a process's environment may have more than 128 KiB.
  (define (input-groups inputs)
    (if (< 1000 (length inputs))
        (cons (string-join (take inputs 1000)) (input-groups (drop inputs 1000)))
        (list (string-join inputs))))
  (define input-variables
    (map (lambda (i) (format #f "inputs~a" i)) (iota (length (input-groups inputs)))))

  ;; A build of SCRIPT, for busybox's shell: with INPUTS, all of which it reads, so that they have to be there.
  (define* (build name script #:key (outputs '("out")) (derivations '()) (features (setting "features" "")))
    (derivation store name busybox
                (list "sh" "-ec"
                      (string-append "b=" busybox
                                     "; for c in cat chmod dd ln mkdir sleep touch; do alias $c=\"$b $c\"; done\n"
                                     (string-concatenate (map (lambda (name) (format #f "cat $~a >/dev/null~%" name))
                                                              input-variables))
                                     script))
                #:system (setting "system" (%current-system))
                #:env-vars `(("nonce" . ,nonce)
                             ("kib" . ,(setting "kib" "1"))
                             ("fill" . ,(setting "fill" "urandom"))
                             ("seconds" . ,(setting "seconds" "1"))
                             ("turns" . ,(setting "turns" "0"))
                             ("held" . ,(setting "held-mib" "0"))
                             ("logmib" . ,(setting "log-mib" "0"))
                             ("files" . ,(setting "files" "1"))
                             ,@(map cons input-variables (input-groups inputs))
                             ,@(match features
                                 ("" '())
                                 (features
                                  (let ((spaced (string-map (lambda (c) (if (eqv? c #\,) #\space c)) features)))
                                    `(("requiredSystemFeatures" . ,spaced))))))
                #:sources (cons busybox-directory inputs)
                #:inputs (map derivation-input derivations)
                #:outputs outputs))

  (define (gather builds)
    (if (string=? (setting "gather" "0") "1")
        (list (build "gathered" "echo $nonce >$out" #:derivations builds))
        builds))

  (gather (match mode
    ('plain
     (map (lambda (i)
            (build (format #f "plain-~a" i)
                   (string-append "mkdir $out; ln -s $b $out/busybox; bs=1024; n=$kib\n"
                                  "while [ $((n % 8)) = 0 ] && [ $n -gt 8 ] && [ $bs -lt 524288 ]; do "
                                  "bs=$((bs * 8)); n=$((n / 8)); done\n"
                                  "dd if=/dev/$fill of=$out/data bs=$bs count=$n 2>/dev/null")
                   #:features (setting (if (zero? i) "picky" "features") (setting "features" ""))))
          (iota (number "count" 1))))
    ('chain
     (let ((first (build "chain-1" "echo $nonce >$out")))
       (list first
             (build "chain-2" (string-append "cat " (derivation->output-path first) " >$out; echo $b >>$out")
                    #:derivations (list first)))))
    ('outputs
     (list (build "outputs"
                  (string-append "mkdir $out $doc; echo manual >$doc/manual; ln -s $doc/manual $out/manual; "
                                 "echo symbols >$debug")
                  #:outputs '("out" "doc" "debug"))))
    ('tree ; a derivation cannot hold UTF-8: printf makes it
     (list (build "tree" "green=$out/$(printf 'gr\\303\\274n'); mkdir -p $out/empty \"$out/with spaces\" $green
                          touch $out/empty-file
                          ln -s '../with spaces' $green/link
                          ln -s $b $out/busybox
                          ln -s /nowhere/at/all $out/dangling
                          echo 'a file' >\"$out/with spaces/$(printf '\\346\\227\\245 \\342\\234\\223')\"
                          echo '#!/bin/sh' >$out/run; chmod +x $out/run")))
    ('holes
     (list (build "holes" "mkdir $out; i=0; while [ $i -lt $((kib / 64)) ]; do
                             i=$((i + 1)); echo -n x; dd if=/dev/zero bs=65535 count=1 2>/dev/null; done >$out/data")))
    ('fail (list (build "fail" "echo about to fail; exit 3")))
    ('stamp
     (map (lambda (i)
            (build (format #f "stamp-~a" i)
                   (string-append "read begin rest </proc/uptime; i=0; while [ $i -lt $turns ]; do i=$((i + 1)); done; "
                                  "dd if=/dev/zero of=/dev/shm/held bs=1M count=$held 2>/dev/null; sleep $seconds; "
                                  "read end rest </proc/uptime; echo $begin $end >$out")))
          (iota (number "count" 1))))
    ('another
     (map (lambda (i)
            (build (format #f "another-~a" i)
                   "echo cores $NIX_BUILD_CORES; dd if=/dev/urandom of=$out bs=64 count=1 2>/dev/null"))
          (iota (number "count" 1))))
    ('sleep
     (list (build "sleep" (string-append
                            (if (string=? (setting "chatty" "0") "1")
                                "i=0; while [ $i -lt $seconds ]; do i=$((i + 1)); echo $i; sleep 1; done"
                                "sleep $seconds")
                            "; dd if=/dev/$fill of=$out bs=1024 count=$kib 2>/dev/null"))))
    ('work
     (map (lambda (i)
            (build (format #f "work-~a" i)
                   "dd if=/dev/zero bs=1048576 count=$logmib 2>/dev/null | $b tr '\\0' .
                    sleep $seconds
                    if [ $files = 1 ]; then dd if=/dev/$fill of=$out bs=1024 count=$kib 2>/dev/null; else
                      mkdir $out; i=0; while [ $i -lt $files ]; do
                        dd if=/dev/$fill of=$out/$i bs=1024 count=$kib 2>/dev/null; i=$((i + 1)); done; fi"))
          (iota (number "count" 1))))
    ('layers
     (let loop ((counts (map string->number (string-split (setting "layers" "1,1") #\,))) (number 0) (before '()))
       (match counts
         (() '())
         ((count . rest)
          (let ((layer (map (lambda (i)
                              (build (format #f "layer-~a-~a" number i)
                                     (string-append
                                      (format #f "~{cat ~a >/dev/null~%~}" (map derivation->output-path before))
                                      "dd if=/dev/$fill of=$out bs=65536 count=$((kib / 64))")
                                     #:derivations before))
                            (iota count))))
            (append layer (loop rest (1+ number) layer)))))))
    ('graph
     (let ((state (seed->random-state (number "seed" 1))))
       (let loop ((i 0) (made '()))
         (if (= i (number "count" 1))
             (reverse made)
             (let* ((before (min 20 (length made)))
                    (inputs (if (zero? before)
                                '()
                                (delete-duplicates (map (lambda _ (list-ref made (random before state)))
                                                        (iota (random 5 state))))))
                    (files  (map derivation->output-path inputs))
                    (kib    (1+ (random (number "kib" 1) state))))
               (loop (1+ i)
                     (cons (build (format #f "graph-~a" i)
                                  (format #f "~:{cat ~a/data >/dev/null~%~}mkdir $out; echo ~{~a~^ ~} >$out/inputs~@
                                              dd if=/dev/$fill of=$out/data bs=1024 count=~a 2>/dev/null"
                                          (map list files) files kib)
                                  #:derivations inputs)
                           made)))))))
    (_ (error "no such mode" mode)))))

(define (print-build store drv)
  ;; As guix-daemon does: all that the derivation and its inputs refer to.
  (let ((inputs (append-map derivation-input-output-paths (derivation-inputs drv))))
    (format #t "derivation ~a ~a~%" (derivation-system drv) (derivation-file-name drv))
    (format #t "~{input ~a~%~}" (requisites store (cons (derivation-file-name drv) inputs)))
    (format #t "~{output ~a~%~}end~%" (map cdr (derivation->output-paths drv)))))

(with-store store
  (set-options store)
  (when (string=? (setting "print" "0") "1")
    (for-each (lambda (drv) (print-build store drv)) (all-builds store))
    (exit 0))

  (let* ((builds (all-builds store))
         (start  (now))
         (error  (guard (c ((store-protocol-error? c) (store-protocol-error-message c)))
                   (build-derivations store builds)
                   #f))
         (elapsed (- (now) start))
         (ok?    (lambda (drv)
                   (every (lambda (output) (valid-path? store (cdr output))) (derivation->output-paths drv)))))
    (for-each (lambda (drv)
                (if (ok? drv)
                    (format #t "ok ~a ~{~a~^ ~}~%" (derivation-name drv) (map cdr (derivation->output-paths drv)))
                    (format #t "failed ~a~%" (derivation-name drv))))
              builds)
    (when error (format #t "error ~a~%" error))
    (format #t "total ~a ~,3f~%" (length builds) elapsed)
    (exit (if (and (not error) (every ok? builds)) 0 1))))
