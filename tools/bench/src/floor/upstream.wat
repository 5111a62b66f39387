;; The router engine's host calls in a cluster's filter, which sees each attempt.
(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
  (call $begin)
  ;; Read the property that names the attempt's request.
  (call $do (call $get_property (global.get $next) (global.get $next.size)
    (global.get $data) (global.get $size)))
  ;; Set the cluster for a retry, in case this attempt gets no answer.
  (call $do (call $set_property (global.get $next) (global.get $next.size)
    (global.get $foreseen) (global.get $foreseen.size)))
  (global.get $continue))

(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (global.get $continue))
(func (export "proxy_on_request_trailers") (param i32 i32) (result i32) (global.get $continue))

(func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
  (call $read_answer)
  (global.get $continue))

(func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (global.get $continue))
(func (export "proxy_on_response_trailers") (param i32 i32) (result i32) (global.get $continue))
