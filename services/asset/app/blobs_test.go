package app

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"antipode.example/platform/blob"
)

// TestNoOtherAddress: an instance that sends elsewhere is not followed, whatever it is asked.
func TestNoOtherAddress(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the other address was asked") }))
	defer elsewhere.Close()
	instance := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer instance.Close()
	base, err := url.Parse(instance.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	source := &blob.HTTPSource{Base: base, Client: clientOf(transport)}
	if c, err := source.Open(t.Context(), blob.Ref{Size: 1}, 0); err == nil {
		_ = c.Close()
		t.Error("it has what it does not have")
	}
	if has, err := source.Has(t.Context(), blob.Ref{Size: 1}); has || err == nil {
		t.Errorf("it has it: %t, %v", has, err)
	}
}
