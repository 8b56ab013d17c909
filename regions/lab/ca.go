package lab

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"antipode.example/regions/topology"
)

const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 365 * 24 * time.Hour
	// renewBefore is how much of a certificate's life is left when it is made anew.
	renewBefore = 30 * 24 * time.Hour
	// early is by how much clocks of clients may be behind.
	early = time.Hour
)

// CertificateFile is the certificate of the authority that a lab in dir has made for itself, for everybody to read: who trusts it trusts the lab's regions.
func CertificateFile(dir string) string { return filepath.Join(dir, "ca.pem") }

// publishAuthority copies the certificate out of the directory of keys, which nobody else may open.
func publishAuthority(dir string) error {
	text, err := os.ReadFile(filepath.Join(KeysDir(dir), "ca.pem"))
	if err != nil {
		return fmt.Errorf("reading the lab's certificate authority: %w", err)
	}
	return replaceFile(CertificateFile(dir), text, 0o644, nil)
}

// authority signs the certificates of the regions of one lab, and nothing else.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// ensureCertificates makes what is missing of an authority of the lab's own (ca.pem, ca.key) and of each region's certificate with its key (tls.<region>.pem), and makes a certificate anew that ends within 30 days, is
// for other names, or is not of this authority. block is the lab's block of doors. The authority is made once, for clients have to be told of it.
func ensureCertificates(dir, lab string, regions []topology.Region, block int, now time.Time, owner *syscall.Credential) error {
	a, err := ensureAuthority(dir, lab, now, owner)
	if err != nil {
		return err
	}
	for _, r := range regions {
		if err := a.ensure(filepath.Join(dir, "tls."+r.Name+".pem"), namesOf(r, block), now, owner); err != nil {
			return err
		}
	}
	return nil
}

func ensureAuthority(dir, lab string, now time.Time, owner *syscall.Credential) (authority, error) {
	path, keyPath := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeAuthority(path, keyPath, lab, now, owner)
	}
	if err != nil {
		return authority{}, fmt.Errorf("reading the lab's certificate authority: %w", err)
	}
	keyText, err := os.ReadFile(keyPath)
	if err != nil {
		return authority{}, fmt.Errorf("reading the key of the lab's certificate authority: %w; put it back, or remove %s: then another authority is made, which clients have to be told of", err, path)
	}
	var a authority
	pair, err := tls.X509KeyPair(text, keyText)
	if err == nil {
		var ok bool
		if a.key, ok = pair.PrivateKey.(*ecdsa.PrivateKey); !ok {
			err = errors.New("its key is not of the kind that the lab makes")
		}
		a.certificate = pair.Leaf
	}
	if err == nil && !a.certificate.IsCA {
		err = errors.New("it may not sign certificates")
	}
	if err == nil && a.certificate.NotAfter.Sub(now) < renewBefore {
		err = fmt.Errorf("it ends at %s", a.certificate.NotAfter.Format(time.RFC3339))
	}
	if err != nil {
		return authority{}, fmt.Errorf("the lab's certificate authority, %s with %s, is of no use: %w; put them back, or remove both: then another authority is made, which clients have to be told of", path, keyPath, err)
	}
	return a, nil
}

func makeAuthority(path, keyPath, lab string, now time.Time, owner *syscall.Credential) (authority, error) {
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Antipode lab " + lab + " CA"},
		NotBefore: now.Add(-early), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, fmt.Errorf("making the key of a certificate authority: %w", err)
	}
	text, keyText, err := sign(template, authority{template, key}, key)
	if err != nil {
		return authority{}, err
	}
	// The key first: where the certificate is, both are.
	if err := replaceFile(keyPath, keyText, 0o600, owner); err != nil {
		return authority{}, err
	}
	if err := replaceFile(path, text, 0o644, owner); err != nil {
		return authority{}, err
	}
	return ensureAuthority(filepath.Dir(path), lab, now, owner)
}

// names are for whom a certificate is.
type names struct {
	hosts     []string
	addresses []netip.Addr
}

func namesOf(r topology.Region, block int) names {
	return names{
		hosts:     []string{"api." + topology.Zone, "cdn." + topology.Zone, "api." + r.Name + "." + topology.Zone, "cdn." + r.Name + "." + topology.Zone, "localhost"},
		addresses: []netip.Addr{r.Front(), r.Edge(), r.DoorAddr(block)},
	}
}

// of says that a certificate is for exactly these.
func (n names) of(c *x509.Certificate) bool {
	return slices.Equal(c.DNSNames, n.hosts) && slices.EqualFunc(c.IPAddresses, n.addresses, func(a net.IP, b netip.Addr) bool { return a.Equal(b.AsSlice()) })
}

// ensure makes the certificate of a region unless there is one that will do.
func (a authority) ensure(path string, n names, now time.Time, owner *syscall.Credential) error {
	text, err := os.ReadFile(path)
	if err == nil {
		pair, err := tls.X509KeyPair(text, text)
		if err != nil {
			return fmt.Errorf("the certificate %s is damaged: %w; put it back, or remove it: then it is made anew", path, err)
		}
		c := pair.Leaf
		if n.of(c) && c.CheckSignatureFrom(a.certificate) == nil && !now.Before(c.NotBefore) && c.NotAfter.Sub(now) >= renewBefore {
			return nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading a certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: n.hosts[0]}, DNSNames: n.hosts,
		NotBefore: now.Add(-early), NotAfter: now.Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if template.NotAfter.After(a.certificate.NotAfter) {
		template.NotAfter = a.certificate.NotAfter
	}
	for _, address := range n.addresses {
		template.IPAddresses = append(template.IPAddresses, address.AsSlice())
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making the key of a certificate: %w", err)
	}
	certificate, keyText, err := sign(template, a, key)
	if err != nil {
		return err
	}
	return replaceFile(path, bytes.Join([][]byte{certificate, keyText}, nil), 0o600, owner)
}

// sign makes a certificate for a key, and returns both as PEM.
func sign(template *x509.Certificate, by authority, key *ecdsa.PrivateKey) (certificate, keyText []byte, err error) {
	der, err := x509.CreateCertificate(rand.Reader, template, by.certificate, key.Public(), by.key)
	if err != nil {
		return nil, nil, fmt.Errorf("signing a certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("writing the key of a certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

// serial is a number that no other certificate has.
func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] &= 0x7f // positive
	return new(big.Int).SetBytes(b)
}
