;; SPDX-License-Identifier: GPL-3.0-or-later
;; Runs on a build machine, between the SSH channel (standard input and output) and the daemon's socket, if the server
;; forwards no sockets or an import is large.  See relay.rs for the messages.  This is one expression, in ASCII, for
;; Guile 2.2 and 3.0, with or without Guix's modules.
(begin
  (use-modules (rnrs bytevectors) (rnrs io ports))

  (let ((in (current-input-port))
        (out (current-output-port))
        (file #f)
        (daemon #f))

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

    ;; Connect to the daemon, which listens on FILE.
    (define (connect-to-daemon)
      (when daemon (close-port daemon))
      (set! daemon (socket AF_UNIX SOCK_STREAM 0))
      (setvbuf daemon 'block 65536)
      (connect daemon AF_UNIX file))

    ;; Pass on a string from the daemon.
    (define (relay-string)
      (let ((length (integer daemon)))
        (put-integer out length)
        (put-bytevector out (bytes daemon (+ length (padding length))))))

    ;; Room for a chunk: its length, its bytes, padding.
    (define answer (make-bytevector (+ 8 32768)))

    ;; Return a port with the contents of the fragments that come from IN, up to an empty fragment.
    (define (fragments)
      (define left 0)
      (define end? #f)
      (define (read! bv start count)
        (when (and (zero? left) (not end?))
          (set! left (integer in))
          (set! end? (zero? left)))
        (let ((count (min count left)))
          (unless (or (zero? count) (eqv? count (get-bytevector-n! in bv start count)))
            (primitive-exit 1))
          (set! left (- left count))
          count))
      (make-custom-binary-input-port "fragments" read! #f #f #f))

    ;; The port that chunks come from: IN, or a port that decompresses some of them.
    (define source in)
    (define make-decompressor #f)

    ;; Read the next chunk into ANSWER, and return its length; 0: there are no more.
    (define (fetch)
      (define (fill start count)
        (eqv? count (get-bytevector-n! source answer start count)))
      (define length
        (and (fill 0 8) (bytevector-u64-ref answer 0 (endianness little))))
      (cond ((eqv? length #xffffffffffffffff)
             (set! source (make-decompressor (fragments)))
             (fetch))
            ((and length (or (zero? length)
                             (and (<= length 32768) (fill 8 (+ length (padding length))))))
             length)
            ((and (not length) (not (eq? source in)))
             (close-port source)
             (set! source in)
             (fetch))
            (else (primitive-exit 1))))

    ;; Answer the daemon's READ frames with the chunks that come from IN, until it is done.  A chunk is fetched before
    ;; the daemon asks for it.  The current chunk has LENGTH bytes, of which USED bytes were sent already.
    (define (import)
      (let loop ((length (fetch)) (used 0))
        (let ((tag (integer daemon)))
          (cond ((= tag #x64617461)             ;READ
                 (let* ((wish (integer daemon))
                        (count (min wish (- length used))))
                   (if (= count length)
                       (put-bytevector daemon answer 0 (+ 8 length (padding length)))
                       (begin
                         (put-integer daemon count)
                         (put-bytevector daemon answer (+ 8 used) count)
                         (put-bytevector daemon (make-bytevector (padding count) 0))))
                   (force-output daemon)
                   (if (and (< 0 length) (= (+ used count) length))
                       (loop (fetch) 0)
                       (loop length (+ used count)))))
                ((= tag #x6f6c6d67)             ;NEXT
                 (put-integer out tag)
                 (relay-string)
                 (force-output out)
                 (loop length used))
                (else                           ;LAST or ERROR: what follows is relayed as it is
                 (put-integer out tag)
                 (force-output out)
                 (let drain ((length length))
                   (unless (zero? length) (drain (fetch)))))))))

    ;; Pass on the daemon's frames and result for a request that it answers with a string.
    (define (relay-answer)
      (let ((tag (integer daemon)))
        (put-integer out tag)
        (cond ((= tag #x6f6c6d67)               ;NEXT
               (relay-string)
               (relay-answer))
              ((= tag #x616c7473)               ;LAST
               (relay-string))
              ((= tag #x63787470)               ;ERROR
               (relay-string)
               (put-integer out (integer daemon)))
              (else (primitive-exit 1)))))

    (define (take-message)
      (when (eof-object? (lookahead-u8 in)) (primitive-exit 0))
      (let* ((type (integer in))
             (request (bytes in (integer in))))
        (put-bytevector daemon request)
        (force-output daemon)
        (cond ((= type 1) (import))
              ((= type 3) (connect-to-daemon))
              ((= type 2)
               (relay-answer)
               (unless (char-ready? in) (force-output out))))))

    (define (relay)
      (if (char-ready? in)
          (take-message)
          (let* ((ready (select (list in daemon) '() '()))
                 (ready (car (select (car ready) '() '() 0)))) ;Guile before 2.2.4 reports ports that are not
            (when (memq daemon ready)
              (let ((bv (get-bytevector-some daemon)))
                (when (eof-object? bv) (primitive-exit 0))
                (put-bytevector out bv)
                (force-output out)))
            (when (memq in ready) (take-message))))
      (relay))

    (setvbuf in 'block 65536)
    (setvbuf out 'block 65536)
    (when (= 1 (integer in))
      (set! make-decompressor
        (catch #t
          (lambda () (module-ref (resolve-interface '(zstd)) 'make-zstd-input-port))
          (lambda _ #f))))
    (let* ((configured (utf8->string (bytes in (integer in))))
           (name (or (getenv "GUIX_DAEMON_SOCKET") configured)))
      (set! file (cond ((string-prefix? "unix://" name) (substring name 7))
                       ((string-prefix? "file://" name) (substring name 7))
                       (else name)))
      (catch 'system-error
        connect-to-daemon
        (lambda args
          (say "guix-offload-relay: cannot connect to '" file "': " (strerror (system-error-errno args)))
          (primitive-exit 1)))
      (say "guix-offload-relay: ready" (if make-decompressor " zstd" "")))
    (relay)))
