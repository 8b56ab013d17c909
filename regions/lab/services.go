package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"antipode.example/regions/topology"
)

// service finds a service of this world; the error names those that there are.
func (l *Lab) service(name string) (topology.Service, error) {
	s, ok := l.opts.Topology.Service(name)
	if !ok {
		return s, unknown("service", name, l.opts.Topology.ServiceNames())
	}
	return s, nil
}

// services are the named one, or all of this world for an empty name.
func (l *Lab) services(name string) ([]string, error) {
	if name == "" {
		return l.opts.Topology.ServiceNames(), nil
	}
	_, err := l.service(name)
	return []string{name}, err
}

// Silent is a region of which no instance of a service answers.
type Silent struct {
	Service string `json:"service"`
	Region  string `json:"region"`
}

func (s Silent) String() string { return s.Service + " in " + s.Region }

// SilentList are those that didn't answer.
type SilentList []Silent

// String is for people: user in us-east, user in eu-west.
func (l SilentList) String() string {
	words := make([]string, len(l))
	for i, s := range l {
		words[i] = s.String()
	}
	return strings.Join(words, ", ")
}

// said is what a region says of a service.
type said[T any] struct {
	service, region string
	answer          T
}

// everywhere asks every region at once about a service or, for an empty name, about all, and returns the answers, by service and then by region, and who gave none. It is an error
// when nobody gave one.
func everywhere[T any](ctx context.Context, l *Lab, service string, ask func(*Region, context.Context, string) (T, error)) ([]said[T], SilentList, error) {
	services, err := l.services(service)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, digestTimeout)
	defer cancel()
	all := make([]said[T], 0, len(services)*len(l.regions))
	for _, s := range services {
		for _, r := range l.regions {
			all = append(all, said[T]{service: s, region: r.Topology.Name})
		}
	}
	errs := make([]error, len(all))
	var asking sync.WaitGroup
	for i := range all {
		asking.Go(func() { all[i].answer, errs[i] = ask(l.regions[i%len(l.regions)], ctx, all[i].service) })
	}
	asking.Wait()
	var answers []said[T]
	var silent SilentList
	for i, a := range all {
		if errs[i] != nil {
			silent = append(silent, Silent{Service: a.service, Region: a.region})
			continue
		}
		answers = append(answers, a)
	}
	if len(answers) == 0 {
		return nil, silent, fmt.Errorf("no region answers: %w", errors.Join(errs...))
	}
	return answers, silent, nil
}
