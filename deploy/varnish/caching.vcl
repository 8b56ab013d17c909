# What may be stored, for how long, and what an answer from the cache says of itself: HTTP caching (RFC 9111) as Varnish does not do it by itself. Which requests come here, and who is asked,
# edge.vcl says. `make cache-tests` runs the public conformance suite against this file.

import std;

sub vcl_backend_response {
    # Guessed freshness is none: who says nothing of it is asked each time.
    if (beresp.http.Cache-Control !~ "(?i)(^|[, ])(s-maxage|max-age)=" && !beresp.http.Expires) {
        set beresp.ttl = 0s;
    }
    # Expires counts from the origin's own Date, whatever clock that is by. An Age that can not be read may be any.
    std.collect(beresp.http.Age);
    if (beresp.http.Cache-Control !~ "(?i)(^|[, ])(s-maxage|max-age)=" && beresp.http.Expires && beresp.http.Date && beresp.ttl > 0s) {
        set beresp.ttl = std.time(beresp.http.Expires, now - 1s) - std.time(beresp.http.Date, now) - std.duration(beresp.http.Age + "s", 0s);
    }
    if (beresp.http.Age && beresp.http.Age !~ "^[0-9]+$") {
        set beresp.ttl = 0s;
    }
    # A star in a list is a star.
    std.collect(beresp.http.Vary);
    if (beresp.http.Vary ~ "(^|,)\s*\*\s*(,|$)") {
        set beresp.http.Vary = "*";
    }
    # After its time nothing is served, but what edge.vcl says may be.
    set beresp.grace = 0s;
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
