//! The section of the page on the method of measurement.

use crate::backend::{STREAM_EVENTS, STREAM_PAUSE};
use crate::measure::Effort;
use crate::variant::{Workload, LONG_STREAM};

/// The section as Markdown. `pinned` says whether the proxy and the load had different cores.
pub fn section(effort: &Effort, pinned: bool) -> String {
    let Effort { rounds, slice, .. } = effort;
    let millis = slice.as_millis();
    let stream = Workload::Streams.slice(*slice).as_millis();
    let pause = STREAM_PAUSE.as_millis();
    let cores = match pinned {
        true => "**Cores**: the proxy has the machine's first core for itself. The load and the backends are one process on the last core.",
        false => "**Cores**: the machine has one core, which the proxy, the load and the backends shared.",
    };
    format!(
        "## How it is measured\n\n\
         All variants run at the same time. They take turns in slices of {millis} ms, or {stream} ms for streams, in shuffled order, \
         {rounds} slices each under each condition. A disturbance of the machine therefore hits all variants alike. Tables show the best \
         slice. The targets of CPU per request also show the median of the ratios within each round. This median is reliable on a machine that is slow for \
         minutes. Absolute times of different runs cannot be compared.\n\n\
         - **CPU per request** is the time that the kernel accounts to all threads of the proxy's processes (`schedstat`), divided by the \
         requests served. Helper processes count as well.\n\
         - {cores}\n\
         - **State of the machine**: everything is warm, unless the column says *one connection*. With one request at a time, caches are \
         cold when the next request arrives, so every ratio is higher.\n\
         - **Quiet moments**: before a slice and after it, a loop of a millisecond shows the speed of the proxy's core. If the loop takes \
         25 % longer than it ever took, other programs use the core's resources. Then the slice waits for up to two seconds, or is \
         repeated up to twice. Slices of more than a second are not repeated.\n\
         - **Configuration**: every variant has the configuration that is shipped for the balancer, without the access log, and with as \
         few changes as possible. Clients and backends use plain HTTP/1.1, and there are 16 client connections. The token has 1.6 KB.\n\
         - **stock Envoy**: one cluster of three hosts, a fixed token that the route adds, and retries on another host. **Lua** and \
         **ext_proc**: round robin and the token, no retries. The ext_proc service runs beside Envoy and reads request headers only. \
         **LiteLLM**: one worker, three Azure deployments, random choice.\n\
         - **floor**: a module in the balancer's place, with the balancer's configuration. It makes the host calls that a plain chat \
         needs in this configuration, with arguments of the same size, and computes nothing. It keeps the data that it reads for sixteen \
         requests. The floor is Envoy's price for these calls. The default settings, *answers not read* and *everything on* each have \
         their own floor. Where the floor misses a target, no module with these calls can meet it on this machine.\n\
         - **streams** are {STREAM_EVENTS} events, {pause} ms apart, over 64 connections. The value is for a whole stream. *First byte* is \
         the time from the request's first byte to the first byte of the response body, over one connection. It is the median of the \
         slices, because a slice has only a few streams. *Retried*: the first attempt of every request is answered 503. *After an error \
         in the stream*: the first attempt is answered with status 200 and a stream that begins with an error. **streams of \
         {LONG_STREAM}** have {LONG_STREAM} events each, over 16 connections. Their CPU divided by {LONG_STREAM} is the CPU per event.\n\
         - **keyed**: each request has its own `prompt_cache_key`. The balancer runs with and without `affinity`.\n\
         - **tokens not counted** is the balancer with `usage: false`.\n\
         - **answers not read** is the balancer with `usage: false` and `retry.stream_start: 0s`. The module reads no response body.\n\
         - **everything on** is the balancer with prices, limits of clients, client names and `headers.why`.\n\
         - **Tables by the number of backends, streams and so on** show how cost grows. Numbers in brackets are ratios to the first \
         column. The sentences below the tables come from the exponent between the first and the last column, where 1 is linear. Backends \
         in cooldown are throttled. Open streams have an event every ten seconds. Memory per stream is the growth of the whole process, \
         divided by the number of streams. The [budget](../tests/budget.toml) has the module's part of it.\n\
         - **one of three throttled**: one backend answers every request with 429 and `retry-after: 2`. Plain Envoy and the floors do not \
         retry, so no backend throttles their requests.\n\
         - **memory at rest** is read at least seven minutes after the start. Compiling the module takes memory. Envoy's allocator returns \
         it to the system after five minutes without use.\n\
         - **workers**: Envoy and the load share all cores, so only comparisons between rows are meaningful.\n\n\
         The tests check the costs that do not depend on the machine: host calls, bytes, instructions and executed code per request, \
         memory per open stream, and the size of the module. The limits are in [budget.toml](../tests/budget.toml).\n"
    )
}
