# bobbin as a container: one static binary, no shell, no root.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /bobbin ./cmd/bobbin

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /bobbin /bobbin
USER nonroot:nonroot
ENTRYPOINT ["/bobbin"]
CMD ["supervise"]
