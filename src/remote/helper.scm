;; SPDX-License-Identifier: GPL-3.0-or-later
;; Runs on a build machine, between the SSH channel (standard input and output) and the daemon's socket, where the
;; server forwards no sockets or an import is large.  See helper.rs for the messages.  One expression, in ASCII; for
;; Guile 2.2 and 3.0, with or without Guix's modules.
(begin
  (use-modules (rnrs bytevectors) (rnrs io ports))

  (let ((in (current-input-port))
        (out (current-output-port))
        (daemon (socket AF_UNIX SOCK_STREAM 0)))

    (define (bytes from count)
      (let ((bv (if (zero? count) (make-bytevector 0) (get-bytevector-n from count))))
        (if (and (bytevector? bv) (= (bytevector-length bv) count))
            bv
            (primitive-exit 1))))

    (define (integer from)
      (bytevector-u64-ref (bytes from 8) 0 (endianness little)))

    (define (put-integer to n)
      (let ((bv (make-bytevector 8)))
        (bytevector-u64-set! bv 0 n (endianness little))
        (put-bytevector to bv)))

    (define (padding n)
      (modulo (- n) 8))

    (define (say . words)
      (for-each (lambda (word) (display word out)) words)
      (newline out)
      (force-output out))

    ;; Answer the daemon's wishes with what comes in chunks from IN, up to a chunk of size zero, until it is done.
    (define (import)
      (let loop ((left 0) (ended? #f))
        (let ((tag (integer daemon)))
          (cond ((= tag #x64617461)             ;READ
                 (let* ((wish (integer daemon))
                        (left (if (and (zero? left) (not ended?)) (integer in) left))
                        (count (min wish left)))
                   (put-integer daemon count)
                   (put-bytevector daemon (bytes in count))
                   (put-bytevector daemon (make-bytevector (padding count) 0))
                   (force-output daemon)
                   (loop (- left count) (zero? left))))
                ((= tag #x6f6c6d67)             ;NEXT
                 (let ((length (integer daemon)))
                   (put-integer out tag)
                   (put-integer out length)
                   (put-bytevector out (bytes daemon (+ length (padding length))))
                   (force-output out)
                   (loop left ended?)))
                (else                           ;LAST or ERROR: what follows is relayed as it is
                 (put-integer out tag)
                 (force-output out)
                 (let drain ((left left) (ended? ended?))
                   (cond (ended? #t)
                         ((> left 0)
                          (let ((count (min left 65536)))
                            (bytes in count)
                            (drain (- left count) #f)))
                         (else
                          (let ((next (integer in)))
                            (drain next (zero? next)))))))))))

    (define (relay)
      (let* ((ready (select (list in daemon) '() '()))
             (ready (car (select (car ready) '() '() 0)))) ;Guile before 2.2.4 reports ports that are not
        (when (memq daemon ready)
          (let ((bv (get-bytevector-some daemon)))
            (when (eof-object? bv) (primitive-exit 0))
            (put-bytevector out bv)
            (force-output out)))
        (when (memq in ready)
          (when (eof-object? (lookahead-u8 in)) (primitive-exit 0))
          (let ((type (integer in)))
            (put-bytevector daemon (bytes in (integer in)))
            (force-output daemon)
            (when (= type 1) (import))))
        (relay)))

    (setvbuf in 'block 65536)
    (setvbuf out 'block 65536)
    (setvbuf daemon 'block 65536)
    (let* ((configured (utf8->string (bytes in (integer in))))
           (name (or (getenv "GUIX_DAEMON_SOCKET") configured))
           (file (cond ((string-prefix? "unix://" name) (substring name 7))
                       ((string-prefix? "file://" name) (substring name 7))
                       (else name))))
      (catch 'system-error
        (lambda ()
          (connect daemon AF_UNIX file))
        (lambda args
          (say "guix-offload-relay: cannot connect to '" file "': " (strerror (system-error-errno args)))
          (primitive-exit 1)))
      (say "guix-offload-relay: ready"))
    (relay)))
