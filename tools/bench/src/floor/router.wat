;; The router engine's host calls in the listener's filter.
(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
  (call $begin)
  ;; Everything there is to know of the request.
  (call $do (call $get_header_map_pairs (global.get $request_headers) (global.get $data) (global.get $size)))
  ;; Its turn, which is stored; none of another worker has come between.
  (call $draw_turn (global.get $nexts))
  ;; What the client proved itself with.
  (call $do (call $remove_header_map_value (global.get $request_headers) (global.get $api_key) (global.get $api_key.size)))
  ;; The token.
  (call $do (call $replace_header_map_value (global.get $request_headers)
    (global.get $authorization) (global.get $authorization.size) (global.get $token) (global.get $token.size)))
  ;; The cluster, where the route's matcher finds it, and the request's number.
  (call $do (call $set_property (global.get $next) (global.get $next.size)
    (global.get $choice) (global.get $choice.size)))
  (global.get $continue))

;; The body goes by.
(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (global.get $continue))
(func (export "proxy_on_request_trailers") (param i32 i32) (result i32) (global.get $continue))

(func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
  ;; Who answered, after how many attempts.
  (call $do (call $replace_header_map_value (global.get $response_headers)
    (global.get $backend_header) (global.get $backend_header.size) (global.get $backend) (global.get $backend.size)))
  (call $do (call $replace_header_map_value (global.get $response_headers)
    (global.get $attempts_header) (global.get $attempts_header.size) (global.get $attempts) (global.get $attempts.size)))
  (global.get $continue))

(func (export "proxy_on_response_body") (param $context i32) (param $came i32) (param $end i32) (result i32)
  ;; The tokens are at the end of the answer, so each frame is read.
  (if (local.get $came) (then
    (call $do (call $get_buffer_bytes (global.get $response_body) (i32.const 0) (local.get $came)
      (global.get $data) (global.get $size)))))
  (if (i32.eqz (local.get $end)) (then (return (global.get $continue))))
  ;; What the access log is told of them.
  (call $do (call $set_property (global.get $input_tokens) (global.get $input_tokens.size)
    (global.get $tokens) (global.get $tokens.size)))
  (call $do (call $set_property (global.get $output_tokens) (global.get $output_tokens.size)
    (global.get $tokens) (global.get $tokens.size)))
  (global.get $continue))
(func (export "proxy_on_response_trailers") (param i32 i32) (result i32) (global.get $continue))
