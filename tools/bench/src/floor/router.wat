;; The router engine's host calls in the listener's filter.
(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
  (call $begin)
  ;; Read the request's headers.
  (call $do (call $get_header_map_pairs (global.get $request_headers) (global.get $data) (global.get $size)))
  ;; Draw the request's turn. No other worker draws one in between.
  (call $draw_turn (global.get $nexts))
  ;; Remove the client's key.
  (call $do (call $remove_header_map_value (global.get $request_headers) (global.get $api_key) (global.get $api_key.size)))
  ;; Set the token.
  (call $do (call $replace_header_map_value (global.get $request_headers)
    (global.get $authorization) (global.get $authorization.size) (global.get $token) (global.get $token.size)))
  ;; Set the property that the route's matcher reads: the cluster and the request's number.
  (call $do (call $set_property (global.get $next) (global.get $next.size)
    (global.get $choice) (global.get $choice.size)))
  (global.get $continue))

;; The body passes unread.
(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (global.get $continue))
(func (export "proxy_on_request_trailers") (param i32 i32) (result i32) (global.get $continue))

(func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
  ;; Set the response headers with the backend and the number of attempts.
  (call $do (call $replace_header_map_value (global.get $response_headers)
    (global.get $backend_header) (global.get $backend_header.size) (global.get $backend) (global.get $backend.size)))
  (call $do (call $replace_header_map_value (global.get $response_headers)
    (global.get $attempts_header) (global.get $attempts_header.size) (global.get $attempts) (global.get $attempts.size)))
  (global.get $continue))

(func (export "proxy_on_response_body") (param $context i32) (param $came i32) (param $end i32) (result i32)
  ;; Read each part of the body, because the token counts are at its end.
  (if (local.get $came) (then
    (call $do (call $get_buffer_bytes (global.get $response_body) (i32.const 0) (local.get $came)
      (global.get $data) (global.get $size)))))
  (if (i32.eqz (local.get $end)) (then (return (global.get $continue))))
  ;; Set the token counts for the access log.
  (call $do (call $set_property (global.get $input_tokens) (global.get $input_tokens.size)
    (global.get $tokens) (global.get $tokens.size)))
  (call $do (call $set_property (global.get $output_tokens) (global.get $output_tokens.size)
    (global.get $tokens) (global.get $tokens.size)))
  (global.get $continue))
(func (export "proxy_on_response_trailers") (param i32 i32) (result i32) (global.get $continue))
