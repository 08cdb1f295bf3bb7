"""What the invented patients of `synthetic` are made of: tables of templates, all written for it.

Blocks hold one entry a line, indented lines continue the one above; `synthetic` says how slots and vignettes read.
"""

# Words that a {slot} may draw, parted by bars.
LEXICON = {
    "horas": "{2..20} h|{3..18} horas|unas {2..9} horas|1 día",
    "dias": "{2..9} días|{2..9}d|{10..15} días|1 semana|una semana",
    "semanas": "{2..6} semanas|{2..5} sem|{3..6} semanas|1 mes",
    "meses": "{2..10} meses|{2..11}m|más de {2..6} meses|varios meses|[FECHA]",
    "lado": "derecho|izquierdo|dcho|izdo",
    "lada": "derecha|izquierda|dcha|izda",
    "analgesico": "paracetamol 1 g c/8h|ibuprofeno 600 mg c/8h|metamizol 575 mg c/8h|paracetamol 500 mg si dolor"
    "|dexketoprofeno 25 mg c/8h|enantyum 25 mg si dolor|naproxeno 500 mg c/12h|nolotil si precisa",
    "antibiotico": "amoxicilina 500 mg c/8h {7..10} días|amox-clav 875/125 c/8h x {7..10}d|cefuroxima 500 mg c/12h"
    "|azitromicina 500 mg 3 días|levofloxacino 500 mg/24h {5..10} días|ciprofloxacino 500 mg c/12h|fosfomicina 3 g",
    "protector": "omeprazol 20 mg|pantoprazol 40 mg/d|omeprazol 20 mg c/24h",
    "corticoide": "prednisona 30 mg/d en pauta descendente|deflazacort 30 mg|metilprednisolona 40 mg iv",
    "antihta": "enalapril 10 mg|enalapril 20 mg|amlodipino 5 mg|losartán 50 mg|valsartán 80 mg|valsartán 160 mg|hidroclorotiazida 25 mg",
    "control": "Control por su MAP|Revisión en {2..6} meses|Cita en {2..8} semanas|Seguimiento por su médico|"
    "Control en CCEE|Revisar en consulta en [FECHA]|Alta|Volver si empeora|Ampliar estudio si persiste|Pendiente de completar estudio|Ingreso si mala evolución|Nueva valoración si no mejora",
    "ciudad": "[LOCALIDAD]|[PAIS]|[PROVINCIA]",
    "oncologico": "ca de colon|ca de pulmón|neo renal|ca gástrico|leucemia|neo de páncreas",
    "familiar": "padre|madre|hermano|hermana|abuelo materno|abuela paterna|tío|primo",
    "quien": "Paciente|[GENERO]|Pac.|Pte",
    "peso": "{5..9} kg|{8..14} kg|{6..12}kg|unos {7..15} kilos|el {10..14} % del peso",
    "colico": "cólico nefrítico|litiasis renal|crisis renoureteral",
    "sinfiebre": "Niega fiebre|No refiere fiebre|Afebril|Sin fiebre ni otra clínica|No fiebre termometrada",
    "mejor": "Refiere mejoría|Mejoría parcial|Sigue igual|Estable|Evolución favorable|Asintomátic@|Persisten molestias"
    "|Algo mejor|Empeoramiento en los últimos días|No ha notado mejoría|Buena evolución con el tto",
}

OPENINGS = """
{quien} de [EDAD]< años|a|> que acude por lo referido más abajo.
{quien} de [EDAD], <natural|procedente> de {ciudad}.
Remitid@ por [MEDICO]< para valoración| para estudio|>.
Derivad@ desde <Urgencias|AP|CS de [LOCALIDAD]|[HOSPITAL]>.
Primera visita. {quien} de [EDAD].
Interconsulta a petición de <[MEDICO]|su MAP|la planta>.
Acude <sol@|acompañad@|con un familiar>< a consulta|>.
Ingresa desde Urgencias el [FECHA].
<Revisión|Visita sucesiva|Control>< [FECHA]|>
INFORME DE <ALTA|CONSULTA> - [HOSPITAL].
Nota de <evolución|guardia|consulta> ([FECHA]).
Hª [ID] - <Dr. [MEDICO]|Dra. [MEDICO]>.
"""

CLOSINGS = """
Fdo. [MEDICO]
Se explica al paciente y entiende.
Entrego informe.
<Resto igual|Resto sin cambios|Sin otras incidencias>.
Comentado con [MEDICO].
Copia para su médico de [CENTRO].
Teléfono de contacto [TELEFONO].
Pendiente de <resultados|informe definitivo|cita>.
[FECHA], [HOSPITAL].
Avisar si cambios. Ext [TELEFONO].
"""

HISTORY = {
    "adult": """
<NAMC|No AMC|No alergias medicamentosas conocidas|Alérgic@ a <penicilina|AINEs|metamizol|contrastes yodados>>
HTA en tto con {antihta}
DM2 en tto con metformina 850 mg
DL con <simvastatina 20|atorvastatina 40> mg
<Apendicectomía|Amigdalectomía|Herniorrafia>< en la infancia| en [FECHA]|>
IQ: <menisco {lado}|hernia inguinal|septoplastia|colecistectomía>
<Fumador@ de {5..30} cig/d|Exfumador@ desde [FECHA] (IPA {5..50})|No fumador@, <bebedor@ ocasional|no enol>>
Asma <extrínseca|bronquial> con <salbutamol|budesonida> a demanda
Hipotiroidismo en tto con levotiroxina <50|75|88|100> mcg
Migraña <sin aura|con aura>
Sd ansioso-depresivo con <sertralina 50|lorazepam 1|escitalopram 10> mg
Lumbalgias de repetición
IT previa por <lumbalgia|ansiedad|esguince>
{colico} en [FECHA]
Trabaja de <administrativ@|hostelería|albañil|limpieza|transportista|comercial>
Vive con su <familia|pareja|madre>, <{1..3} hijos|sin hijos>
Hernia de hiato. {protector}
AF: {familiar} con <DM2|HTA|IAM|{oncologico}>
Rinoconjuntivitis alérgica a gramíneas
Anemia ferropénica en tto con Fe oral
Obesidad, IMC {30..39}
""",
    "elder": """
HTA de larga evolución con {antihta}
DM2 con <metformina|insulina basal {10..30} UI>
<FA permanente|ACxFA> anticoagulad@ con <acenocumarol|apixaban 5 mg c/12h>
Cardiopatía isquémica, stent en <DA|CD> en [FECHA]
EPOC <moderado|grave>, <exfumador@|fumador@ hasta [FECHA]>
IRC estadio <2|3a|3b>
IABVD. No deterioro cognitivo
Dependiente parcial ABVD, vive en residencia
HBP en tto con tamsulosina
Artrosis <generalizada|de rodillas>
ACV isquémico en [FECHA] sin secuelas
{oncologico} intervenid@ en [FECHA], libre de enfermedad
NAMC
Prótesis de <cadera|rodilla> {lada}
Osteoporosis con <alendronato|denosumab> y vit D
TBC pulmonar en la juventud, tratada
Glaucoma en tto tópico
Cataratas IQ AO
AF: sin interés
No hábitos tóxicos
""",
    "child": """
Embarazo y parto normales, PRN {2600..3800} g
Vacunas <al día|según calendario>
NAMC
<Bronquiolitis|Dermatitis atópica|Otitis de repetición> <de lactante|previa>
Guardería desde los {6..18} m
Hermano <mayor|pequeño> sano
Sin enfermedades de interés
AF: <abuelo con TBC hace años|madre asmática|padre con psoriasis|sin interés>
""",
    "risk": """
<ExADVP|Ex-ADVP|UDVP en el pasado>, en programa de metadona <30|45|60|80> mg/d
ADVP hasta [FECHA], <VHC genotipo {1..4}|Ac VHC +|hepatopatía crónica por VHC>
VHC <no tratado|pendiente de tto|con RNA detectable>
HBsAg + conocido, <portador@|sin seguimiento>
<Sífilis|Lúes> tratada con penicilina benzatina en [FECHA]
Relaciones sexuales de riesgo <sin preservativo|con múltiples parejas|reiteradas>
ITS previas: <gonorrea|condilomas|clamidia|herpes genital>< x{2..4}|>
Privación de libertad hasta [FECHA]. Tatuajes
Consumo de <cocaína|mefedrona|heroína fumada|popper> <los fines de semana|activo>
Pareja <fallecida joven de causa infecciosa|exADVP|con hepatopatía C>
Natural de {ciudad}, en España desde [FECHA]. Mantoux + {15..22} mm
TBC <ganglionar|pulmonar|pleural> en [FECHA], tto {6..9} meses
Herpes zóster <en dos ocasiones|previo a los [EDAD]>
Transfusión en [FECHA] en su país
Ejerce la prostitución
""",
    "benign": """
Niega ADVP, niega relaciones de riesgo
Niega consumo de <drogas|otros tóxicos>. No ADVP
Pareja estable desde hace {5..30} años, niega conductas de riesgo
No tatuajes ni transfusiones. Ac VHC y HBsAg neg en [FECHA]
AF: {familiar} con TBC <en la posguerra|hace {20..50} años>
AF: {familiar} con hepatopatía por VHC
AF: {familiar} <con linfoma|fallecid@ de linfoma>
Mantoux negativo en <reconocimiento de empresa|[FECHA]>
Vacunad@ de VHB por su trabajo (sanitari@)
<Trabaja|Voluntari@> en centro de atención a drogodependientes. No consumo
Mononucleosis en la adolescencia
Niega ITS. <Un|Una> pareja sexual
Donante de sangre habitual
Hepatitis A en la infancia
""",
}

# A line here may begin with `pattern = `: it is left out where the problem at hand speaks of that itself.
EXAM = {
    "adult": """
caquexia|hemiparesia|rigidez|cognitivo = BEG, consciente y orientad@, <NC, NH|bien hidratad@>
Tª|iebre|TA [0-9]|febr = TA {105..148}/{62..92}, FC {58..98} lpm, <Tª {36.0..37.1}|afebril>, SatO2 {96..99} %
neumon|MVC|ibilan|crepit|Rx = AC: rítmica sin soplos. AP: MVC< sin ruidos añadidos|>
bdom|splen|egalia = Abdomen <blando, no doloroso|anodino>, no masas ni megalias
denopat = <No adenopatías palpables|No adenopatías|Sin adenopatías <cervicales|laterocervicales ni axilares>>
uguet|boca|ucal|lengua|ringe|lingual|migdal = CyC: <orofaringe normal, sin muguet|no IY|sin hallazgos>
EEII: no edemas ni signos de TVP
emiparesia|focal|taxia|NRL|Nistagmo|etequias = NRL: <PINR, sin focalidad|sin focalidad>
placa|esiones|xantema|rash|ápula|ácula|descama|ódulos|verruga = Piel: <no lesiones|sin exantemas>
Peso|peso|IMC|aquexia = Peso {52..96} kg, talla {152..188} cm
isnea|aquipne|emiparesia = Glasgow 15. Eupneic@
""",
    "elder": """
REG, <colaborador@|algo deshidratad@>
TA [0-9]|Tª = TA {118..175}/{58..90} mmHg, FC {55..95}x', Sat {90..97} % basal
crepit|Rx = AC: <arrítmica|soplo sistólico {1..3}/6>. AP: <crepitantes bibasales|MVC>
bdom|splen = Abdomen globuloso, no doloroso
demas = Edemas maleolares <leves|con fóvea>
denopat|emiparesia = Sin adenopatías. No focalidad aguda
Barthel {40..95}
oca|uguet = Boca séptica, <portador@ de prótesis|sin lesiones>
""",
    "child": """
peso = BEG, <activ@|reactiv@>, bien nutrid@ y perfundid@
Peso|iebre = Peso {8..38} kg (P{10..90}), Tª {36.2..38.9}
ACP = ACP: <normal|buena entrada bilateral>
ímpano = Otoscopia <normal|timpánica hiperémica>
xantema|quimosis = Meníngeos negativos, no exantema
boca|uguet|mígdalas = Orofaringe <hiperémica|normal>, no <muguet|exudado>
""",
}

LABS = """
openia|eucocit|infocit|Hb|laq|neutro|anemi = Hb {12.1..16.2} g/dl, leucos {45..102}00, plaq {155..360}000<, fórmula normal|>
Cr |Na  = <BQ|Bioquímica>: glu {78..118}, Cr {0.6..1.2}, Na {135..144}, K {3.6..4.9}
GOT|GPT|hepat|VHC|VHB = GOT {14..38}, GPT {12..42}, GGT {12..60}
VSG|LDH|iebre = PCR {0.1..12.4} mg/dl, VSG {4..38}
Rx|orácic|neumon|TBC|ICC = Rx tórax: <sin hallazgos|ICT normal, sin infiltrados|sin alt pleuroparenquimatosas>
ECG|alpitac|FA  = ECG: RS a {58..98}, <sin alteraciones de la repolarización|BIRD>
Sedimento|ITU|Tira = Sedimento: <normal|{5..15} leucos/campo>
TSH|ipertiro = TSH {0.8..4.2}, colesterol {148..268}
Eco|bazo|splen = Eco abdominal: <sin hallazgos|esteatosis hepática leve|quiste renal simple>
TAC|RMN|LOE|splen = TAC <craneal|abdominal> sin <hallazgos|alteraciones agudas>
Coagulación normal, INR {0.9..1.2}
policlonal|mieloma|Componente|gammap = Proteinograma normal
"""

ROUTINE = """
Urgencias: Dolor abdominal <difuso|en epigastrio|en FII> de {horas} de evolución, <con náuseas|un vómito>. {sinfiebre}
  // Abdomen blando, <molestias a la palpación profunda|dolor en FII sin defensa>, RHA +, Blumberg neg
  // <Dolor abdominal inespecífico|GEA> // Dieta blanda, suero oral, {analgesico}
Urgencias: Caída casual con traumatismo en <rodilla {lada}|muñeca {lada}|tobillo {lado}|hombro {lado}> hace {horas}, no TCE
  // <Edema|Tumefacción> y dolor selectivo, movilidad <conservada|limitada por dolor>. Rx: sin lesiones óseas agudas
  // <Contusión|Esguince grado {1..2}> // Vendaje, frío local, {analgesico}
Urgencias: Mareo con giro de objetos desde hace {horas}, vómitos, no hipoacusia ni acúfenos
  // Nistagmo horizontal <dcho|izdo>, Romberg neg, resto NRL normal // Sd vertiginoso periférico
  // Sulpirida c/8h {3..5} días
Urgencias: Disuria y polaquiuria de {dias}, no dolor lumbar. {sinfiebre}
  // PPR bilateral negativa. Tira: leucos ++, nitritos {1..2}+ // ITU baja // {antibiotico}. Abundantes líquidos
Urgencias: Dolor torácico <punzante|opresivo> de {horas}, <no irradiado|irradiado a hombro>, aumenta con la inspiración
  // ECG: RS sin alt. Troponina {3..11} ng/L seriada negativa // Dolor torácico atípico de perfil osteomuscular
  // {analgesico}
Urgencias: Crisis de ansiedad, <parestesias|opresión precordial> tras discusión familiar, no ideación autolítica
  // Taquipneic@, ECG normal // Crisis de ansiedad // Diazepam 5 mg sl, reevaluar
Urgencias: Cólico en fosa renal {lada} de {horas} irradiado a ingle, náuseas
  // PPR {lada} +. Sedimento: {20..80} hematíes/c. Eco: ectasia grado I // Cólico renal {lado} // Ketorolaco iv, {analgesico}
Primaria: Tos y rinorrea de {dias}, <odinofagia|congestión>, mialgias. {sinfiebre}
  // Faringe hiperémica sin exudado. ACP normal // IRA de vías altas, <vírica|catarro común> // {analgesico}, lavados nasales
Primaria: Lumbalgia mecánica de {dias} tras <coger peso|esfuerzo>, sin irradiación
  // Contractura paravertebral {lada}, Lassègue y Bragard neg // Lumbalgia aguda
  // {analgesico}, calor local, IT {3..10} días
Primaria: Acude para <control de TA|analítica anual|recetas>. <No síntomas|Asintomátic@>, buena adherencia
  // TA {122..158}/{68..94}, peso {58..98} kg, IMC {21..34} // HTA <bien|mal> controlada // {antihta}, dieta hiposódica
Primaria: <Cansancio|Astenia> de {semanas} en relación con <el trabajo|insomnio>. Apetito conservado, no pérdida de peso
  // Exploración normal. Hb {12.5..15.0}, TSH {1.0..3.9} // Astenia primaveral // Medidas de higiene del sueño
M. Interna: Edemas en EEII y disnea a <moderados|mínimos> esfuerzos de {semanas}, ortopnea de {2..3} almohadas
  // IY +, crepitantes bibasales. NT-proBNP {900..6400} // ICC descompensada // Furosemida 40 mg c/{8..12}h, restricción de sal
M. Interna mayor: Fiebre de {dias} y <tos productiva|disnea>, desorientación nocturna
  // Crepitantes en base {lada}. Rx tórax: infiltrado en <LID|LII> // Neumonía del anciano, probable broncoaspiración
  // {antibiotico}, O2, hidratación
M. Interna: Estudio de HTA de difícil control, cefalea ocasional. No otra clínica
  // TA {150..182}/{90..106}, FO: cruces AV // HTA esencial // {antihta} + {antihta}, MAPA
Cardiología: Palpitaciones <autolimitadas|de minutos> desde hace {meses}, no síncope
  // ECG: RS {60..88}. ETT: FEVI {55..68} %, sin valvulopatía // Extrasistolia <SV|ventricular> aislada // Holter 24 h
Cardiología mayor: Angina de esfuerzo <estable|CF II> desde {meses}, cede con NTG
  // Ergometría clínica y eléctrica <+|dudosa> a los {4..8} min // Cardiopatía isquémica crónica
  // AAS 100, bisoprolol 2,5 mg, atorvastatina 80
Neumología: Disnea y sibilancias de {dias}, <expectoración blanquecina|tos seca>, sin fiebre
  // Sibilantes dispersos. FEV1 {48..86} % // Crisis asmática <leve|moderada> // Salbutamol, {corticoide}
Neumología: Somnolencia diurna y ronquido, pareja refiere apneas. Epworth {9..18}
  // IMC {29..40}, Mallampati III. PSG: IAH {12..58} // SAHS <moderado|grave> // CPAP {7..11} cmH2O
Digestivo: Pirosis y regurgitación de {meses}, sin disfagia ni sd constitucional
  // EDA: hernia de hiato de {2..4} cm, esofagitis grado A // ERGE // {protector}, medidas posturales
Digestivo: Dispepsia y distensión posprandial desde {meses}, alterna estreñimiento y deposiciones blandas
  // Abdomen timpánico. Test de aliento H. pylori <+|neg> // SII / dispepsia funcional // {protector}, dieta sin lactosa
Digestivo: Rectorragia escasa con la deposición desde {semanas}, sin cambio del hábito
  // TR: hemorroides grado {1..3}. Colonoscopia: diverticulos aislados // Hemorroides internas // Fibra, baños de asiento
Dermatología: Lesión pigmentada en <espalda|hombro {lado}|muslo> que ha crecido en {meses}
  // Mácula de {4..9} mm, bordes regulares, dermatoscopia reticulada // Nevus melanocítico // Fotoprotección
Dermatología: Placas eccematosas pruriginosas en <manos|flexuras> de {semanas}, empeora con <detergentes|estrés>
  // Eritema, descamación y <fisuras|liquenificación> // Dermatitis <de contacto|atópica> // Mometasona crema, emolientes
Dermatología: Verrugas en <dedos|planta {lada}> desde {meses}
  // Pápulas hiperqueratósicas de {3..8} mm // Verrugas vulgares // Crioterapia {1..3} ciclos
Dermatología mayor: Lesión costrosa en <pabellón {lado}|dorso nasal|sien> que no cura
  // Pápula perlada de {4..14} mm con telangiectasias // CBC nodular // Exéresis con anestesia local
Ginecología mujer: Revisión. G{1..4}P{0..3}, FUR [FECHA], ciclos regulares. Usa <ACO|DIU|preservativo>
  // Citología normal, mamas sin nódulos. Eco TV: útero {68..90} mm // Revisión ginecológica normal // Citología en {2..3} años
Ginecología mujer: Reglas abundantes con coágulos desde {meses}, dismenorrea
  // Eco: mioma intramural de {15..58} mm // Miomatosis uterina // Hierro oral, DIU-LNG
Ginecología mujer: Gestante de {8..38} semanas, <movimientos fetales +|sin metrorragia>. No incidencias
  // TA {100..126}/{58..78}, FCF {132..156}, eco acorde // Gestación en curso normal // Sulfato ferroso, control en {3..5} sem
Psiquiatría: Ánimo bajo y anhedonia de {meses} tras <separación|duelo|despido>, insomnio de conciliación
  // Orientad@, llanto, no ideas de muerte estructuradas // Trastorno adaptativo // Sertralina 50, lorazepam 1 mg noche
Psiquiatría: Ansiedad generalizada, rumiaciones, tensión muscular de {meses} de evolución
  // Abordable, discurso fluido, no sintomatología psicótica // TAG // Escitalopram <10|15> mg, psicoterapia
Traumatología: Gonalgia {lada} de {meses}, <bloqueos|fallos> ocasionales, empeora al bajar escaleras
  // McMurray +, no derrame. RMN: rotura de cuerno posterior de menisco interno // Meniscopatía // Artroscopia, LEQ
Traumatología: Omalgia {lada} nocturna desde {meses} sin trauma
  // Abducción {70..120}º, Jobe +. Eco: tendinosis del supraespinoso // Sd subacromial // Infiltración, RHB
Traumatología mayor: Caída en domicilio, impotencia funcional y acortamiento de <MID|MII>
  // Rx: fractura pertrocantérea // Fractura de cadera // IQ: clavo endomedular. HBPM 40 mg
Oftalmología: Ojo rojo {lado} con <secreción|lagrimeo> de {dias}, no pérdida de AV
  // AV OD {0.5..1.0} OI {0.5..1.0}, hiperemia conjuntival, córnea clara // Conjuntivitis <vírica|bacteriana> // Tobramicina colirio c/6h
Oftalmología mayor: Disminución de AV progresiva AO desde {meses}
  // Catarata nuclear N{2..3}, PIO {12..19}/{12..19} // Cataratas // Facoemulsificación OD, LEQ
Hematología: Remitid@ por Hb {8.6..11.4} y VCM {66..79}, menorragias o pérdidas digestivas a descartar
  // Palidez. Ferritina {3..11}, plaq {180..430}000, serie blanca normal // Anemia ferropénica // Fe iv <500|1000> mg
Hematología mayor: Control de <gammapatía monoclonal|SMD> estable. Sin síntomas B
  // Componente M {0.3..1.4} g/dl, Hb {10.8..13.9} // GMSI // Analítica en {6..12} meses
Urología varón: Prostatismo de {meses}: chorro débil, nicturia x{2..4}
  // TR: próstata II/IV adenomatosa. PSA {0.8..5.9}, Qmax {7..14} ml/s // HBP // Tamsulosina 0,4 mg
Urología: Hematuria <macroscópica|terminal> {dias}, sin coágulos. Fumador@
  // Eco: vejiga sin LOEs. Citologías neg x3 // Hematuria en estudio // Cistoscopia
ORL: Hipoacusia {lada} y acúfeno desde {meses}
  // Otoscopia: tapón de cerumen. Audiometría: caída en agudos de {30..60} dB // Presbiacusia / tapón // Extracción, revisión
ORL: Obstrucción nasal y cefalea frontal de {dias}, rinorrea purulenta
  // Rinoscopia: septo desviado a la {lada}, moco en meato medio // Sinusitis aguda // {antibiotico}, corticoide nasal
ORL: Disfonía de {semanas} en docente, sin disfagia // Fibro: nódulos en tercio anterior de CCVV // Nódulos vocales
  // Logopedia, reposo de voz
Neurología: Cefalea hemicraneal pulsátil {3..9} días/mes, foto y sonofobia
  // Fondo de ojo normal, pares normales // Migraña sin aura // Topiramato 50 mg, sumatriptán a demanda
Neurología mayor: Temblor de reposo <MSD|MSI> y lentitud desde {meses}
  // Rigidez en rueda dentada, marcha a pequeños pasos. MMSE {22..29} // E. de Parkinson // Levodopa 100/25 c/8h
Neurología: Parestesias nocturnas mano {lada} de {meses} // Tinel y Phalen +. EMG: mediano enlentecido
  // STC <leve|moderado> // Férula nocturna
Cirugía: Bulto inguinal {lado} que aumenta con Valsalva, {meses}
  // Hernia reductible, no incarcerada // Hernia inguinal {lada} // Hernioplastia con malla, ASA II
Cirugía: Dolor en HCD posprandial tras grasas, episodios repetidos
  // Murphy neg. Eco: colelitiasis múltiple de {4..18} mm // Colelitiasis sintomática // Colelap programada
Cirugía: Absceso <perianal|sacro> de {dias}, dolor pulsátil // Fluctuación de {2..5} cm // Absceso <perianal|pilonidal>
  // Drenaje con anestesia local, {antibiotico}
Endocrinología: Control DM2. HbA1c previa {6.4..9.8} %. No hipoglucemias
  // Peso {68..108} kg, pies sin lesiones, FO sin RD // DM2 <aceptable|mal> control // Metformina + sitagliptina, dieta
Endocrinología: Bocio palpado en AP, sin clínica compresiva // Eco: nódulo tiroideo {lado} de {8..26} mm, PAAF benigna
  // BMN eutiroideo // Eco anual
Reumatología: Artralgias de manos de {meses}, rigidez matutina {10..60} min
  // Nódulos de Heberden, FR y anti-CCP neg // Artrosis nodal // {analgesico}, ejercicios
Alergología: Estornudos y prurito ocular en primavera // Prick + a gramíneas y olivo, IgE {120..640} // Rinoconjuntivitis alérgica
  // Ebastina 10 mg, inmunoterapia
Nefrología: Control de ERC, diuresis conservada // Cr {1.4..2.6}, FG {28..54}, microalbuminuria {20..280}
  // ERC G3 // Ajustar {antihta}, evitar AINEs
Pediatría niño: Fiebre de {12..60} h hasta {38.0..39.8}º, tos y mocos. Come algo menos // ACP limpia, tímpanos normales
  // Catarro / cuadro viral // Apiretal {3..8} ml c/6h
Pediatría niño: Revisión del niño sano de {2..13} años. Buen desarrollo // Peso P{15..90}, talla P{15..90}, soplo inocente
  // Niñ@ san@ // Vacunación según calendario
Pediatría niño: Vómitos y diarrea de {1..3} días, {3..8} deposiciones/d // Mucosas húmedas, abdomen blando // GEA
  // SRO, dieta astringente
Pediatría niño: Otalgia {lada} nocturna // Tímpano abombado hiperémico // OMA // Amoxicilina 80 mg/kg/d {7..10} días
Pediatría niño: Golpe en <codo|antebrazo> {lado} en el colegio // Dolor a la palpación, Rx sin fractura // Contusión
  // Ibuprofeno {4..9} ml
"""

INDICATORS = """
Urgencias: Odinofagia y placas blanquecinas en boca de {semanas}, <sin antibiótico previo|sin tto inhalado>
  // Muguet <oral|en lengua y paladar|orofaríngeo> que se desprende con depresor // Candidiasis oral // Fluconazol 100-200 mg {7..14} d
Digestivo: Disfagia y odinofagia de {semanas}, pérdida de {peso}
  // EDA: placas blanquecinas <confluentes|en tercio medio> no desprendibles, AP: hifas // Candidiasis esofágica // Fluconazol 200 mg/d
Dermatología: Lesiones vesiculosas dolorosas en <varias metámeras|ambos hemitórax|D4-D7 y L1>, tórpidas
  // Herpes zóster <multimetamérico|diseminado>, costras necróticas // Zóster extenso // Valaciclovir 1 g c/8h
M. Interna: Bultos en cuello, axilas e ingles de {meses}, <sudoración nocturna|febrícula>
  // Adenopatías generalizadas de {1..3} cm, rodaderas. TAC: adenopatías mediastínicas y retroperitoneales
  // Linfadenopatía generalizada a estudio // Biopsia ganglionar, ampliar estudio
Urgencias: Fiebre de {dias}, faringitis, rash <en tronco|maculopapular> y mialgias intensas. Contacto sexual de riesgo previo
  // Adenopatías cervicales, exantema, Paul-Bunnell neg, linfocitos atípicos {6..18} % // Sd mononucleósico // Ampliar estudio
M. Interna: Pérdida de {peso} en {meses} sin causa aparente, astenia, anorexia
  // Caquexia, IMC {15..18}. Albúmina {2.2..3.1}. TAC body sin neoplasia // Sd constitucional // Ingreso para estudio
M. Interna: Fiebre prolongada de {semanas} sin foco, sudores nocturnos, diaforesis
  // Tª {38.2..39.6}, esplenomegalia {2..4} cm. Hemocultivos neg x3 // FOD // PET-TAC, aspirado de MO
Digestivo: Diarrea crónica de {meses}, {6..15} deposiciones/día sin productos, adelgazamiento
  // Coprocultivo: <Cryptosporidium|Isospora|Microsporidium>. Biopsias de colon con CMV // Diarrea crónica infecciosa // Ingreso
Hematología: Remitid@ por leucopenia {18..32}00 y linfopenia {4..9}00 mantenida <sin causa|no filiada>
  // Esplenomegalia discreta, frotis sin blastos // Leucopenia/linfopenia inexplicada // Estudio, MO
Hematología: Trombopenia {18..72}000 detectada en analítica, <gingivorragia|petequias en EEII>
  // No fármacos causales, frotis confirma, hipergammaglobulinemia policlonal // Trombopenia inexplicada // {corticoide}, estudio
Neumología: {2..4}ª neumonía en {meses}, fiebre y tos purulenta
  // Infiltrados en LSD y LII, S. pneumoniae en hemocultivo // Neumonía de repetición // Ceftriaxona + azitromicina, ampliar estudio
Neumología: Disnea progresiva y tos seca de {semanas}, fiebre {38.0..39.2}, LDH {480..980}
  // Rx: infiltrado intersticial bilateral. TAC vidrio deslustrado. BAL: P. jirovecii // Neumonía por Pneumocystis // Cotrimoxazol iv
Neumología: Tos, expectoración hemoptoica y sudoración nocturna de {semanas}, adelgazamiento de {peso}
  // Rx: cavitación en <LSD|LSI>. BAAR +++ en esputo, Lowenstein + // TBC pulmonar bacilífera // RHZE {6..9} meses, aislamiento
M. Interna: Fiebre y adenopatía cervical fistulizada de {semanas}
  // Biopsia: granulomas caseificantes, PCR M. tuberculosis + // TBC <ganglionar|diseminada|miliar> // Isoniacida, rifampicina, pirazinamida
Dermatología: Lesiones eritematosas no pruriginosas en palmas y plantas, chancro previo hace {semanas}
  // Roséola, adenopatías inguinales. RPR 1/<32|64|128>, TPHA + // Sífilis secundaria // Penicilina benzatina 2,4 MU im
Urología varón: Secreción uretral purulenta y disuria tras relación de riesgo sin preservativo
  // Exudado: N. gonorrhoeae +< y Chlamydia +|> // Uretritis gonocócica // Ceftriaxona 500 mg im + azitromicina 1 g, estudio de contactos
Digestivo: Elevación de GOT {80..340} y GPT {90..480}. Consumo ev en el pasado
  // HBsAg +, Ac VHC +, RNA detectable. Fibroscan {7.2..18.4} kPa // Coinfección VHB/VHC // Estudio pretratamiento
Cirugía: Lesiones verrucosas perianales recidivadas, sangrado
  // Anuscopia: condilomas floridos, biopsia AIN III, VPH 16 + // Displasia anal de alto grado // Fulguración
Ginecología mujer: Citología H-SIL, VPH 16/18 +. Varias parejas, condilomas
  // Colposcopia: epitelio acetoblanco extenso, biopsia CIN {2..3} // Displasia cervical de alto grado // Conización
Dermatología: Placas descamativas en cara, cuero cabelludo y tórax de {meses}, resistentes al tto
  // Dermatitis seborreica extensa, foliculitis eosinofílica // Dermatitis seborreica severa // Ketoconazol, biopsia
Dermatología: Psoriasis de brote explosivo, eritrodermia en {semanas}, artritis
  // Placas palmoplantares ostráceas y {60..90} % SCT // Psoriasis grave atípica // Acitretino, ampliar estudio
Hematología: Masa <abdominal|cervical> de crecimiento rápido, síntomas B, LDH {600..2400}
  // Biopsia: linfoma <B difuso de células grandes|de Burkitt|plasmablástico> // Linfoma no Hodgkin agresivo // Estadiaje, R-CHOP
Dermatología: Máculas violáceas en <piernas|tronco|punta nasal> desde {meses}, alguna en paladar
  // Nódulos rojo-vinosos no blanquean, biopsia: VHH-8 + // Sarcoma de Kaposi // TAC toracoabdominal, EDA
Neurología: Cefalea, fiebre y hemiparesia {lada} de {dias}, crisis comicial
  // TAC/RMN: LOEs captantes en anillo en ganglios basales, IgG toxo + // Toxoplasmosis cerebral probable // Sulfadiazina + pirimetamina
Oftalmología: Miodesopsias y pérdida de visión ojo {lado} de {dias}
  // FO: retinitis hemorrágica «en queso y tomate», exudados algodonosos // Retinitis por CMV // Ganciclovir iv, valganciclovir
Neurología: Deterioro cognitivo subagudo, ataxia y hemianopsia en {semanas}
  // RMN: lesiones desmielinizantes asimétricas de SB. LCR: PCR virus JC + // Leucoencefalopatía multifocal progresiva // Ingreso
Neurología: Cefalea y rigidez de nuca de {dias}, fiebre
  // LCR: {40..180} céls, tinta china +, antígeno criptocócico 1/<256|512|1024> // Meningitis criptocócica // Anfotericina B, flucitosina
ORL: Lesión blanquecina en borde lingual {lado} que no se desprende, aftas recidivantes gigantes
  // Leucoplasia vellosa oral, gingivitis ulceronecrótica // Leucoplasia vellosa // Biopsia, clorhexidina
"""

WEAK = """
Primaria: Vesículas dolorosas en <hemitórax {lado}|región lumbar {lada}> de {dias}, <sin desencadenante|episodio de estrés>
  // Lesiones en una metámera, D{4..10} // Herpes zóster <torácico|lumbar> // Famciclovir 750 mg 7 d, {analgesico}
Dermatología: Descamación en <cejas y surcos nasogenianos|cuero cabelludo> desde {meses}, <brotes|mejora en verano>
  // Eritema y escama grasienta moderada // Dermatitis seborreica // Ketoconazol gel, desonida
Neumología: Fiebre y tos de {dias}, dolor pleurítico {lado}. <No neumonías previas|Otra neumonía hace {4..9} años>
  // Rx: condensación en <LSD|LSI|LM> // NAC // {antibiotico}
Hematología: Plaquetas {92..138}.000 en analítica <de empresa|preoperatoria>, asintomátic@
  // No esplenomegalia, frotis: <agregados dudosos|confirma> // Trombopenia leve en estudio // Repetir hemograma en citrato
Hematología: Leucocitos {31..39}00 en dos analíticas, <sin infecciones|faringitis ocasionales>
  // Exploración normal // Leucopenia leve a estudio // Control analítico
Urgencias: Fiebre y odinofagia de {dias}, adenopatías laterocervicales
  // Amígdalas con exudado, bazo no palpable. Linfocitos {48..62} % // Sd mononucleósico // {analgesico}, reposo
Digestivo: Diarrea de {semanas}, {3..5} dep/día, <viaje previo|sin fiebre>, peso algo menor
  // Coprocultivos pendientes // Diarrea <persistente|prolongada> en estudio // Racecadotrilo, calprotectina
M. Interna: Adelgazamiento de {3..6} kg en {meses}, <ha pasado mala época|come menos>, no fiebre
  // IMC {19..22}, no adenopatías // Pérdida de peso a estudio // Analítica, TSH, Rx tórax
ORL: Bulto cervical {lado} de {semanas}, no doloroso // Adenopatía rodadera de {10..18} mm, resto normal
  // Adenopatía cervical inespecífica // PAAF si persiste
Urología varón: Escozor uretral de {dias} tras nueva pareja // Escasa secreción clara, exudado pendiente
  // Uretritis inespecífica // Doxiciclina 100 mg c/12h {7..10} d
Ginecología mujer: Citología L-SIL, VPH AR +. <Nueva pareja|Pareja estable> // Colposcopia: cambios menores, CIN I
  // Displasia leve // Citología en {6..12} meses
Digestivo: GPT {58..96} en revisión. <Tatuaje reciente|Enol moderado> // HBsAg neg, antiHBc +, Ac VHC pendiente
  // Hipertransaminasemia a estudio // Repetir BQ, eco
M. Interna: Febrícula vespertina de {semanas}, <cansancio|sudoración ocasional> // Tª {37.2..37.8}, exploración anodina
  // Febrícula a estudio // Mantoux, Rx tórax, hemocultivos
Dermatología: <Condilomas|Lesiones verrucosas> en <pene|vulva|ingle> desde {semanas} // Pápulas de {2..5} mm
  // Condilomas acuminados // Imiquimod, crioterapia
Dermatología: Brote de psoriasis de {semanas} en <codos|tronco>, peor que otras veces // Placas, PASI {8..14}
  // Psoriasis moderada // Calcipotriol/betametasona
ORL: Lengua blanca y escozor de {dias} // Lengua saburral, dudoso muguet // Posible candidiasis oral // Nistatina enjuagues
Neumología: Contacto de TBC en <el trabajo|piso compartido> // Mantoux {8..16} mm, Rx normal // Infección tuberculosa latente
  // Isoniacida 300 mg {6..9} m
"""

DISTRACTORS = """
Primaria: Ha perdido {peso} en {meses} <con dieta|haciendo dieta y ejercicio|con ayuda de nutricionista>, content@ con el resultado
  // IMC {25..30}, resto normal // Obesidad en tto, pérdida de peso voluntaria // Mantener dieta
Endocrinología: Pérdida de {peso}, palpitaciones y temblor de {semanas}, come bien
  // Bocio difuso, TSH 0,0{1..4}, T4 {2.8..5.1} // Hipertiroidismo (Graves) que justifica la pérdida de peso // Metimazol
Primaria: Molestias en boca tras <antibiótico|corticoide inhalado sin enjuague> {dias}
  // Muguet oral leve // Candidiasis oral secundaria a <amox-clav|budesonida inhalada> // Nistatina {7..10} d
Ginecología mujer: Prurito y leucorrea en requesón tras antibiótico por ITU // Vulva eritematosa, hifas en fresco
  // Candidiasis vulvovaginal // Clotrimazol vaginal
Dermatología mayor: Octogenari@ con vesículas en <hemitórax|V1> {lado} de {dias}, dolor urente
  // Herpes zóster una metámera // Herpes zóster del anciano // Valaciclovir, gabapentina 300 mg
M. Interna mayor: Fiebre prolongada de {semanas}, cefalea temporal y claudicación mandibular
  // VSG {82..118}, biopsia de temporal + // Arteritis de cél gigantes como causa de la fiebre // Prednisona <40|60> mg
Digestivo: Diarrea crónica de {meses} con moco y sangre
  // Colonoscopia: colitis ulcerosa <izquierda|extensa>, coprocultivo y CMV neg // Brote de CU // Mesalazina, {corticoide}
Digestivo: Diarrea crónica y adelgazamiento desde {meses} // antitransglutaminasa {60..200}, biopsia Marsh III // Enf. celíaca
  // Dieta sin gluten
Hematología mayor: Trombopenia {28..80}000 y leucopenia leve en <cirrótico|QT>
  // Esplenomegalia por hipertensión portal // Trombopenia secundaria a hiperesplenismo // Vigilar
Hematología: Leucopenia {26..36}00 con <clozapina|metamizol|metimazol> // Resolución tras retirada, frotis normal
  // Leucopenia por fármacos // Evitar fármaco
Hematología mayor: Adenopatías generalizadas y linfocitosis {18..64}000 // CMF: CD5+ CD23+ // LLC estadio A // Vigilancia
Neumología mayor: {2..4}ª neumonía en {meses} en EPOC con disfagia // Condensación LID, aspirado S. pneumoniae
  // Neumonía de repetición por aspiración // Espesante, {antibiotico}
Neumología: Estudio de contactos: {familiar} con TBC // Mantoux negativo, Rx tórax normal. Niega tos, no sudoración
  // Se descarta TBC // Repetir Mantoux en {8..12} sem
Neumología: Tos de {semanas} con adenopatías hiliares bilaterales, eritema nodoso
  // ECA {62..110}, biopsia: granulomas no caseificantes, BAAR neg // Sarcoidosis, descartada TBC y linfoma // {corticoide}
Digestivo: Estudio por pinchazo accidental en <hospital|laboratorio> // HBsAg neg, Ac VHC neg, GOT/GPT normales
  // Exposición sin transmisión de VHB/VHC // Alta
Digestivo: Donante rechazad@ por Ac VHC dudoso // RNA VHC no detectable x2, GPT {18..36} // Falso positivo, no hepatitis C // Alta
Urología varón: Secreción uretral tras sondaje // Exudado: E. coli. Gonococo y Chlamydia negativos // Uretritis por sonda
  // {antibiotico}
Dermatología mayor: RPR dudoso en preoperatorio // RPR neg, TPHA neg al repetir // Se descarta sífilis, falso + // Alta
Dermatología: Psoriasis vulgar de años, AF de psoriasis ({familiar}) // Placas en codos, PASI {2..5} // Psoriasis leve conocida
  // Calcipotriol
Neurología: Hemiparesia {lada} y cefalea de {dias}, crisis // RMN: LOE única captante, biopsia: metástasis de {oncologico}
  // Metástasis cerebral, no toxoplasmosis // Dexametasona, RT
Hematología mayor: Masa cervical y síntomas B // Biopsia: linfoma folicular G{1..2} // Linfoma indolente del anciano // R-CVP
Neurología: Brote desmielinizante, ataxia // RMN: placas periventriculares, virus JC neg, BOC + // EM RR, no LMP // Metilpred. 1 g iv
Oftalmología mayor: Miodesopsias ojo {lado} // FO: DVP, no retinitis ni exudados // DVP // Signos de alarma
Dermatología mayor: Nódulos violáceos en <pie|pierna {lada}> de años // Sarcoma de Kaposi clásico del anciano, único
  // Kaposi clásico // RT local
M. Interna: Odinofagia, fiebre y adenopatías cervicales {dias}, sobrino con lo mismo // IgM VEB +, Paul-Bunnell +, bazo +1
  // Mononucleosis por VEB // Reposo, {analgesico}
Pediatría niño: Fiebre, amígdalas con exudado y adenopatías // Paul-Bunnell +, linfocitosis vírica {52..70} %
  // Mononucleosis infecciosa // Reposo, no deporte
Pediatría niño: Placas blancas en boca, lactante de {1..7} meses // Muguet oral // Candidiasis oral del lactante // Nistatina
Pediatría niño: Contacto con abuelo con TBC // Mantoux 0 mm, Rx normal // Se descarta TBC // Isoniacida {2..3} m
Pediatría niño: Diarrea de {semanas} y poco peso // Antitransglutaminasa + // Celiaquía // Dieta sin gluten
Pediatría niño: Equimosis tras catarro, plaquetas {9..40}000 // Resto de series normal // PTI postviral // Ig iv
"""

# Out-of-distribution texts: kind → specialty as filed, then the sentences that an excerpt is drawn from, in order.
FOREIGN = {
    "ophthalmic-surgery": """
Oftalmología
PROTOCOLO QUIRÚRGICO. Vitrectomía pars plana <23|25|27>G ojo {lado} bajo anestesia peribulbar.
Trócares a {3.5..4.0} mm del limbo en IT, SN y ST; infusión comprobada en cavidad vítrea.
Vitrectomía central con triamcinolona, hialoides adherida a arcada; se completa DVP con aspiración a {180..450} mmHg.
Tinción con azul brillante {20..60} s, pelado de MLI de {2..3} diámetros papilares con pinza de Eckardt.
Endoláser 360º, {420..1400} impactos a {140..260} mW; intercambio fluido-aire y gas SF6 al {18..22} %.
Facoemulsificación por incisión de {2.2..2.8} mm, CCC de {5.0..5.5} mm, LIO {18.0..24.5} D en saco; viscoelástico aspirado.
Biomicroscopia: Tyndall +/++++, LIO centrada, PIO {10..26} mmHg, Seidel negativo.
OCT macular: grosor central {210..480} µm, agujero <cerrado|persistente>, capa elipsoide <íntegra|interrumpida>.
Topografía: K1 {41.2..44.0}, K2 {43.5..47.9}, paquimetría {488..570} µm; recuento endotelial {1400..2700} céls/mm2.
Posición boca abajo {3..7} días. Moxifloxacino + dexametasona colirio en pauta.
""",
    "dental": """
Odontología
Odontograma: ausencias 1.{6..8}, 2.{6..8}, 3.6 y 4.6; obturaciones de composite en 1.{1..5} y 2.{4..5}.
Periodontograma: bolsas de {4..9} mm en sextante {1..6}, sangrado al sondaje {20..78} %, movilidad grado {1..3}.
Endodoncia de 3.{4..7}: longitud de trabajo {18.5..22.5} mm, conductometría con localizador de ápices.
Instrumentación rotatoria hasta lima <25|30|40>, irrigación con hipoclorito al {2..5} % y EDTA, obturación con gutapercha.
Exodoncia de 4.8 semiincluido: colgajo, ostectomía, odontosección y sutura con seda 3/0.
Implante de {3.3..4.8} x {8..13} mm, torque {25..45} Ncm, cicatrización sumergida; corona atornillada en {3..6} meses.
Ortopantomografía: cortical del dentario inferior respetada, imagen radiolúcida periapical de {3..9} mm.
Presupuesto de rehabilitación: {2..6} coronas de circonio y férula de descarga. Firma el consentimiento.
Clase II división {1..2}, resalte {4..8} mm; brackets de slot 0,022 y elásticos intermaxilares.
""",
    "veterinary": """
Otros
Especie: <canina. Raza: podenco|canina. Raza: mastín|canina. Raza: mestizo|felina. Raza: siamés>. Macho castrado, chip {941000..941999}{10000..99999}.
El propietario refiere cojera de la extremidad posterior {lada} y lamido de almohadillas desde hace {dias}.
Convive con {1..3} gatos, come pienso, desparasitado con collar; cartilla de vacunas con moquillo, parvovirus y rabia.
Mucosas rosadas, TRC menor de 2 s, FC {80..160}, linfonodos poplíteos normales, condición corporal {4..8}/9.
Test rápido de Leishmania <positivo débil|negativo>, Ehrlichia negativo; alopurinol <100|200|300> mg c/12h.
Radiografía de cadera: displasia grado {2..4}, ángulo de Norberg {84..104}º.
Se rasura la zona, limpieza de otitis por Malassezia y collar isabelino {7..14} días.
Ovariohisterectomía programada, ayuno de 12 h, premedicación con medetomidina.
""",
    "english": """
M. Interna
This [EDAD]-year-old visitor presented to our clinic with a {2..12}-day history of worsening shortness of breath.
Past medical history is notable for type 2 diabetes, gout and a remote left total knee replacement.
He denies chest pain, fevers, chills, night sweats or recent travel outside of the [COUNTRY].
On examination blood pressure was {110..160}/{60..95}, pulse {60..110}, oxygen saturation {90..99}% on room air.
Lungs were clear to auscultation bilaterally and the abdomen was soft, non-tender, without organomegaly.
Chest radiograph demonstrated a small right pleural effusion; D-dimer was {200..1900} ng/mL.
Assessment and plan: start furosemide <20|40> mg daily, repeat basic metabolic panel in {3..10} days.
The patient was discharged home in stable condition with follow-up by the primary care physician.
Medications on discharge: metformin <500|850|1000> mg twice daily, allopurinol 100 mg, atorvastatin 20 mg at bedtime.
""",
    "portuguese": """
Urgencias
Doente de [EDAD] anos, natural do [LOCALIDAD], trazido pela família por quadro de dispneia com {2..9} dias de evolução.
Antecedentes pessoais de hipertensão arterial, dislipidemia e bronquite crónica; não fuma há {3..20} anos.
Nega febre, dor torácica ou perda ponderal; refere edemas dos membros inferiores ao fim do dia.
À observação: consciente e orientado, apirético, TA {110..170}/{60..95} mmHg, auscultação com sibilos dispersos.
Análises: hemoglobina {10.5..15.2} g/dL, creatinina {0.7..1.6} mg/dL, sem outras alterações de relevo.
Fez nebulização com brometo de ipratrópio com melhoria; foi medicado com prednisolona <20|30|40> mg.
Tem alta para o domicílio, com indicação para recorrer ao médico de família dentro de {5..10} dias.
Explica-se ao doente e à filha o plano terapêutico, que compreenderam.
""",
    "catalan": """
Primaria
Pacient de [EDAD] anys que ve acompanyada de la seva filla per dolor al genoll {2..9} setmanes.
Sense al·lèrgies conegudes. Hipertensió arterial tractada amb enalapril, diabetis i hipotiroïdisme.
No ha tingut febre ni altres símptomes; dorm malament i es lleva cansada als matins.
A l'exploració: bon estat general, pressió {115..165}/{60..92}, auscultació sense sorolls afegits.
Es demana radiografia i analítica amb funció renal, i s'explica que cal caminar cada dia {20..45} minuts.
Pla: paracetamol 1 g cada vuit hores si hi ha dolor, fred local i fisioteràpia al CAP de [LOCALIDAD].
Es cita d'aquí a {2..8} setmanes per veure'n l'evolució; si empitjora, que torni abans.
""",
    "administrative": """
Administración
Le informamos de que su cita del [FECHA] en la agenda {100..990} ha sido reprogramada para el [FECHA] a las {8..19}:{10..50} h.
De conformidad con la Ley Orgánica 3/2018, sus datos serán incorporados a un fichero cuyo responsable es el [HOSPITAL].
Puede ejercer los derechos de acceso, rectificación, supresión y portabilidad dirigiéndose al registro general.
Documentos que debe aportar: tarjeta sanitaria, DNI, volante P{10..99} y justificante de domicilio.
El aparcamiento del edificio <A|B|C> permanecerá cerrado por obras; utilice la entrada de consultas externas, planta {1..4}.
Solicitud de copia de historia clínica nº {10000..99999}, expediente {100..999}/{1999..2023}, tasa {6..30} euros.
Certificado de asistencia: el interesado permaneció en el centro de {8..11}:{10..50} a {12..14}:{10..50} h.
Encuesta de satisfacción: valore de 0 a 10 la limpieza, la señalización y el trato recibido.
Protocolo interno de almacén: pedido {1000..9999} de {5..90} cajas de guantes talla M y {2..40} bobinas de papel.
Si no puede acudir, rogamos lo comunique con {24..72} horas de antelación en el [TELEFONO].
""",
    "essure": """
Ginecología
ESSURE® - Información para la portadora del implante anticonceptivo tubárico. Lote {600000..699999}, tarjeta {1000..9999}.
El dispositivo consta de un resorte exterior de nitinol, otro interior de acero y fibras de polietileno (PET).
Se inserta por histeroscopia, sin incisiones, en el segmento proximal de cada trompa de Falopio.
Las fibras provocan el crecimiento del tejido y la oclusión completa a los {3..4} meses; hasta entonces use otro método.
Número de espiras visibles en cavidad: derecha {2..8}, izquierda {2..8}. Control con Rx simple o eco 3D en {10..14} semanas.
Advertencia: contraindicado en alergia al níquel, embarazo, infección pélvica activa o enfermedad autoinmune.
Efectos descritos: dolor pélvico, sangrado intermenstrual, migración, perforación o expulsión del microinserto.
Condicional para RM hasta 3 teslas; artefacto de {18..44} mm alrededor de los insertos.
Solicita retirada de los dispositivos por dolor y metrorragia: salpinguectomía laparoscópica bilateral con extracción íntegra.
Conserve esta tarjeta y muéstrela antes de cualquier procedimiento uterino, incluida la ablación endometrial.
""",
    "schizoaffective": """
Psiquiatría
Trastorno esquizoafectivo de tipo bipolar, {2..9} ingresos en UHB, el último en [FECHA] por descompensación psicótica.
Ingresa involuntariamente (art. 763 LEC) tras abandono de clozapina <200|300|400|500> mg; litemia previa {0.4..1.0} mEq/L.
Discurso disgregado, con neologismos y asociaciones laxas; refiere que la televisión emite mensajes cifrados para él.
Ideación delirante megalomaníaca y de perjuicio muy estructurada con los vecinos, eco y robo del pensamiento.
Alucinaciones auditivas en segunda y tercera persona que comentan sus actos, risas inmotivadas, soliloquios.
Contención mecánica {1..6} horas, haloperidol <5|10> mg im y clonazepam; reevaluado cada <15|20|30> minutos.
Consumo de cannabis y ADVP de joven, abandonado; VHC curado. Convive con su madre, tutor legal la agencia [INSTITUCION].
Reintroducción de clozapina hasta <300|450|600> mg con hemogramas semanales por agranulocitosis, sialorrea y sedación.
Zuclopentixol depot <200|400> mg cada {2..4} semanas, ácido valproico <1000|1500> mg, biperideno 4 mg.
PANSS positiva {18..38}, YMRS {14..40}; juicio de realidad ausente al ingreso, crítica parcial al alta.
TEC: {6..12} sesiones bitemporales bajo anestesia con propofol, mejoría de la catatonia.
Plan: hospital de día, CRPS, piso supervisado y continuidad de cuidados con su enfermera de referencia del CSM.
""",
    "lab-dump": """
Laboratorio
PETICION {1000000..9999999} SUERO RECIBIDO {7..9}:{10..59} VALIDADO {10..14}:{10..59}
GLU;{70..240};mg/dL;74-106;<H|L|*|> | UREA;{14..120};mg/dL;17-43; | CREA;{0.5..3.1};mg/dL;0.67-1.17;
NA;{128..148};mmol/L;136-145; | K;{3.1..6.2};mmol/L;3.5-5.1;<H|L|*|> | CL;{92..112};mmol/L;98-107; | CA;{7.9..11.2};mg/dL
AST;{10..90};U/L;0-50; | ALT;{10..120};U/L;0-50;<H|L|*|> | GGT;{10..300};U/L | FA;{40..260};U/L;30-120; | LDH;{120..420};U/L
LEUC;{3.2..18.1};10e3/uL;4.0-10.5; | NEU%;{38..88}; | LIN%;{8..48}; | MON%;{3..12}; | EOS%;{0..9}; | BAS%;{0..2};
HEM;{3.2..5.9};10e6/uL | HB;{8.1..17.2};g/dL;13-17;<H|L|*|> | HTO;{26..52};% | VCM;{70..104};fL | ADE;{11.2..18.9};%
PLQ;{90..520};10e3/uL;150-400; | VPM;{7.1..12.6};fL | TP;{60..120};% | INR;{0.9..3.4}; | TTPA;{24..48};s | FIB;{200..690}
PH;{7.2..7.5}; | PCO2;{28..64};mmHg | PO2;{48..98};mmHg | HCO3;{18..34};mmol/L | EB;-{1..8}; | LAC;{0.6..5.8};mmol/L
FERR;{4..900};ng/mL | B12;{120..900};pg/mL | FOL;{2.1..18.2};ng/mL | TSH;{0.1..9.8};uUI/mL | T4L;{0.6..2.4};ng/dL
COL;{120..310} | HDL;{24..88} | LDL;{50..220} | TRIG;{40..420} | URICO;{2.4..9.8} | CK;{30..900} | AMIL;{20..210}
*** MUESTRA HEMOLIZADA INDICE {1..4} *** REPETIR K Y LDH
""",
    "ocr": "Documentación",
}
