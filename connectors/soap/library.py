"""The one gate to zeep. Its transport is not used, so what that needs is put off."""

from connectors.later import put_off

_TRANSPORT = {
    "httpx._main": ("main",),
    "requests": ("Response",),
    "requests.structures": ("CaseInsensitiveDict",),
    "requests_file": ("FileAdapter",),
    "requests_toolbelt.multipart.decoder": ("MultipartDecoder",),
}

with put_off(_TRANSPORT):
    from zeep import Client, Settings
    from zeep.exceptions import Error, ExternalReferenceForbidden
    from zeep.wsdl.bindings import Soap11Binding, Soap12Binding
    from zeep.xsd import ComplexType, Nil
    from zeep.xsd.elements import Element
    from zeep.xsd.elements.indicators import Indicator
    from zeep.xsd.types import builtins as xsd
    from zeep.xsd.types.simple import AnySimpleType

__all__ = [
    "AnySimpleType",
    "Client",
    "ComplexType",
    "Element",
    "Error",
    "ExternalReferenceForbidden",
    "Indicator",
    "Nil",
    "Settings",
    "Soap11Binding",
    "Soap12Binding",
    "xsd",
]
