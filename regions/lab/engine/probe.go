package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

const (
	probeMost    = 3 * time.Second // bound of a probe whose context has none
	maxProbeBody = 1 << 20
)

// get fetches a URL over a connection of its own and returns the body of a 200.
func get(ctx context.Context, dial Dial, url string) ([]byte, error) {
	return ask(ctx, dial, http.MethodGet, url, nil)
}

// ask makes a request over a connection of its own and returns the body of a 200.
func ask(ctx context.Context, dial Dial, method, url string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, probeMost)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making a request for %s: %w", url, err)
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", url, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxProbeBody))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &statusError{url, resp.Status, answer}
	}
	return answer, nil
}

// statusError is an answer that is no 200.
type statusError struct {
	url, status string
	body        []byte
}

func (e *statusError) Error() string {
	text, _, _ := strings.Cut(strings.TrimSpace(string(e.body)), "\n")
	return fmt.Sprintf("%s answers %s: %.200s", e.url, e.status, text)
}

// getOK is a probe that wants a 200.
func getOK(url string) func(Dial) func(context.Context) (string, error) {
	return func(dial Dial) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			_, err := get(ctx, dial, url)
			return "", err
		}
	}
}

// servesOrIsFenced is the probe of a process that may be forbidden to serve: one that is fenced, and else well, is as it should be.
func servesOrIsFenced(url string) func(Dial) func(context.Context) (string, error) {
	return func(dial Dial) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			var status *statusError
			_, err := get(ctx, dial, url)
			if errors.As(err, &status) && onlyFenced(status.body) {
				return "fenced", nil
			}
			return "", err
		}
	}
}

// onlyFenced reports whether an answer of /readyz names no other reason than that the region is fenced; see platform/health.
func onlyFenced(body []byte) bool {
	var says struct {
		Draining bool `json:"draining"`
		Checks   map[string]struct {
			OK    bool   `json:"ok"`
			Error string `json:"error"`
		} `json:"checks"`
	}
	if json.Unmarshal(body, &says) != nil || says.Draining {
		return false
	}
	fenced := false
	for _, c := range says.Checks {
		if !c.OK && !strings.HasPrefix(c.Error, "fenced:") {
			return false
		}
		fenced = fenced || !c.OK
	}
	return fenced
}

// exchange sends a few bytes and reads the answer with read.
func exchange(ctx context.Context, dial Dial, addr netip.AddrPort, send []byte, read func(net.Conn) error) error {
	conn, err := dial(ctx, "tcp", addr.String())
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", addr, err)
	}
	defer conn.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(probeMost)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("setting a deadline for %s: %w", addr, err)
	}
	if _, err := conn.Write(send); err != nil {
		return fmt.Errorf("writing to %s: %w", addr, err)
	}
	if err := read(conn); err != nil {
		return fmt.Errorf("reading from %s: %w", addr, err)
	}
	return nil
}

func pingRedis(addr netip.AddrPort) func(Dial) func(context.Context) (string, error) {
	return func(dial Dial) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			return "", exchange(ctx, dial, addr, []byte("PING\r\n"), func(c net.Conn) error {
				line, err := bufio.NewReader(c).ReadString('\n')
				if err != nil {
					return err
				}
				if line != "+PONG\r\n" {
					return fmt.Errorf("the answer to PING is %.80q", line)
				}
				return nil
			})
		}
	}
}

// askKafka sends an ApiVersions request of version 0, which every broker answers once it takes requests.
func askKafka(addr netip.AddrPort) func(Dial) func(context.Context) (string, error) {
	const apiVersions, correlation = 18, 7
	request := binary.BigEndian.AppendUint32(nil, 2+2+4+2)
	request = binary.BigEndian.AppendUint16(request, apiVersions)
	request = binary.BigEndian.AppendUint16(request, 0) // version
	request = binary.BigEndian.AppendUint32(request, correlation)
	request = binary.BigEndian.AppendUint16(request, 0) // no client id: an empty string
	return func(dial Dial) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			return "", exchange(ctx, dial, addr, request, func(c net.Conn) error {
				var head struct {
					Size, Correlation uint32
					Code              uint16
				}
				if err := binary.Read(c, binary.BigEndian, &head); err != nil {
					return err
				}
				if head.Correlation != correlation || head.Code != 0 {
					return fmt.Errorf("the answer to ApiVersions has code %d", head.Code)
				}
				return nil
			})
		}
	}
}
