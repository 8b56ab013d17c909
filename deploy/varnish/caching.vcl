# What may be stored, for how long, and what an answer from the cache says of itself: HTTP caching (RFC 9111) as Varnish does not do it by itself. Which requests come here, and who is asked,
# edge.vcl says. `make cache-tests` runs the public conformance suite against this file.

import std;

sub vcl_backend_response {
    # Guessed freshness is none: who says nothing of it is asked each time.
    if (beresp.http.Cache-Control !~ "(?i)(^|[, ])(s-maxage|max-age)=" && !beresp.http.Expires) {
        set beresp.ttl = 0s;
    }
    # After its time an answer is served only as far as it allows that itself.
    set beresp.grace = 0s;
    if (beresp.http.Cache-Control ~ "(?i)(^|[, ])stale-while-revalidate=[0-9]+" && beresp.http.Cache-Control !~ "(?i)(must-revalidate|proxy-revalidate|s-maxage)") {
        set beresp.grace = std.duration(regsub(beresp.http.Cache-Control, "(?i)^(?:.*[, ])?stale-while-revalidate=([0-9]+).*$", "\1") + "s", 0s);
    }
    # What can be asked for by its validator is kept for that.
    if (beresp.http.ETag || beresp.http.Last-Modified) {
        set beresp.keep = 1h;
    }
}

# Cache-Status is RFC 9211's. What was fetched for several requests at a time is a hit for all but the first.
sub vcl_recv {
    unset req.http.Edge-Fetched;
}

sub vcl_miss {
    set req.http.Edge-Fetched = "fwd=miss";
}

sub vcl_pass {
    set req.http.Edge-Fetched = "fwd=bypass";
}

sub vcl_backend_fetch {
    unset bereq.http.Edge-Fetched;
}

sub vcl_deliver {
    if (resp.http.Cache-Status) {
        set resp.http.Cache-Status = resp.http.Cache-Status + ", ";
    }
    set resp.http.Cache-Status = resp.http.Cache-Status + server.identity;
    if (!req.http.Edge-Fetched) {
        set resp.http.Cache-Status = resp.http.Cache-Status + "; hit; ttl=" + std.integer(duration = obj.ttl);
    } else {
        set resp.http.Cache-Status = resp.http.Cache-Status + "; " + req.http.Edge-Fetched + "; fwd-status=" + resp.status;
        if (req.http.Edge-Fetched == "fwd=miss" && !obj.uncacheable) {
            set resp.http.Cache-Status = resp.http.Cache-Status + "; stored; ttl=" + std.integer(duration = obj.ttl);
        }
    }
}
