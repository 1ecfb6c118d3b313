# A small image archive, Debian's own Orthanc, for deploy/compose.yaml: DICOMweb with a password, no DICOM port.
FROM debian:bookworm-slim
# hadolint ignore=DL3008 # Debian's stable release changes these only for security
RUN apt-get update \
    && apt-get install --yes --no-install-recommends orthanc orthanc-dicomweb \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=1000 --group=1000 /archive
COPY orthanc.json /etc/neurovision-orthanc.json
USER 1000
EXPOSE 8042
CMD ["/usr/sbin/Orthanc", "/etc/neurovision-orthanc.json"]
